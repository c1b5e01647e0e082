"""Images: data sets, labels, transforms and batches."""
