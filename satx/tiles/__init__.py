"""Read, check and store tiles: from folders and files to one memory-mapped uint8 array with its index."""
