"""Measuring models: accuracy, agreement with the dense model, predictions."""
