"""Files without a model: state dicts, files and folders are compressed, decoded and verified one tensor at a time."""
