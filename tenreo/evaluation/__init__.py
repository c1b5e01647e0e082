"""Evaluation of models: accuracy, agreement with the dense model, predictions, and compression to a target."""
