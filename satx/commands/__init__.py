"""What each command does and prints; `cli.py` declares their options and imports these when they are called."""
