"""Inference: the classifier as a SavedModel that takes image files and returns probabilities."""
