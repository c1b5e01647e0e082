"""Sharing: folders and repositories of models, and their cards."""
