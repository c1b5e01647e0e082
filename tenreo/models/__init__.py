"""Models: building, recognizing, loading and saving them."""
