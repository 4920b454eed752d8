"""The block world: rendered scenes with exact depth, boxes and questions, which need no download."""
