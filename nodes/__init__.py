"""The nodes of the focus graph, one file each, and what they need: images, depth, state."""
