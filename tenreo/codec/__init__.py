"""Arithmetic on tensors: no `nn.Module`, no file, no terminal."""
