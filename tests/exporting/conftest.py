"""Faster exports to ONNX, in the tests of all folders that are collected together with these."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

# Every export would collect the operators that torch can translate, for half of the time of a tiny network.
ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
