"""Machines in EC2 that work at a study: launched, counted, paid for and ended."""
