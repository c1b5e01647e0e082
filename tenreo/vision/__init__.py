"""Torchvision's models and images: building, loading, saving, correcting, evaluating."""
