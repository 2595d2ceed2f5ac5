"""Where the bytes of tiles come from: folders, tile files, object stores, tile servers; and whether they are a tile."""
