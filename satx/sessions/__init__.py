"""Preparing a session: tiles, weights and settings, checked before anything is spent."""
