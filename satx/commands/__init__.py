"""The commands and their output; `cli.py` declares their options and imports each module when its command is called."""
