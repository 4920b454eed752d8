"""The focus graph assembled, and how people use it."""
