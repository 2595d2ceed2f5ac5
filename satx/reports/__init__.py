"""Comparison of runs: numbers, figure and page."""
