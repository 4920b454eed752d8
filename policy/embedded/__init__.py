"""Weights and model cards of the policy and the depth model that come with the package (block world only)."""
