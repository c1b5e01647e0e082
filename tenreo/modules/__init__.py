"""Introspection of torch modules: weights, wrappers and tied tensors."""
