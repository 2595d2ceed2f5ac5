"""`python -m satx` is `satx`."""

from satx.cli import main

main()
