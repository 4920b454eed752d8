"""Training a small policy from scratch on the block world: tokenizer, model, packed batches, the training loop."""
