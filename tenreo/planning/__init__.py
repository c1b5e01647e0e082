"""What to do: recipes, the layers that they choose, and plans; nothing here changes a model."""
