"""Writing a model for programs that do not have tenreo."""
