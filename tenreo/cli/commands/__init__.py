"""The commands, one module each: options, signature, help and the checks before torch is imported."""
