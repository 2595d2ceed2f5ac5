"""Metrics, intervals, calibration, slices and plots: numpy in, numbers out; imports no Keras, MLflow or tiles."""
