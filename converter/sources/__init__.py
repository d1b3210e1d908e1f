"""Checkpoints of several formats: configuration, tensors and tokenizer."""
