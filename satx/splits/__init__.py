"""Splits that do not flatter: tiles of the same ground, spatial blocks, and what a random split would have scored."""
