"""Metrics, intervals, calibration, slices and plots from NumPy arrays; imports no Keras, MLflow or tile modules."""
