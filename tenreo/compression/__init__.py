"""Doing it to a model: compressed layers, their tensors in a file, corrected statistics, reports."""
