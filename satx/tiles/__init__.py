"""Reading, checking and storing tiles: folders and files in, one memory-mapped uint8 array and its index out."""
