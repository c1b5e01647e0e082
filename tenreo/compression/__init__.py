"""Compression of a model's layers: encoding, torch parametrizations, reports, and the model's tensors in a file."""
