"""Preparation of a session: tiles, weights and settings, checked before any training starts."""
