"""Arithmetic on tensors: no module, no file, no terminal."""
