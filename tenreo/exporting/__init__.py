"""Exporting models for programs that do not have tenreo."""
