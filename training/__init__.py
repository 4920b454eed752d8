"""How a policy learns to focus, and how that is measured."""
