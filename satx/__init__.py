"""satx: sweep, compare and ship image classifiers for satellite tiles."""

__version__ = "0.1.0"
