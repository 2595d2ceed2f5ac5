"""Rendered sample sessions for users who have no imagery yet."""
