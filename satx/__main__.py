"""Entry point of `python -m satx`, the same as `satx`."""

from satx.cli import main

main()
