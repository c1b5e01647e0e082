"""Correcting the statistics of BatchNorm and biases after compression."""
