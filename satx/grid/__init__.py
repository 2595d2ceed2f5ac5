"""Arithmetic of web map tiles, areas and points on the globe; knows neither images nor models."""
