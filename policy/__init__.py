"""What the policy says, and the models that say it: boxes, the trace grammar, prompts, and the policies themselves."""
