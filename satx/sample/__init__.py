"""A rendered sample session for users who have no imagery yet."""
