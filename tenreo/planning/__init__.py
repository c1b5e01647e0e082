"""Planning of a compression: recipes, the layers that they choose, and plans; nothing here changes a model."""
