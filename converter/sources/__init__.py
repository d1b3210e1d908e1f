"""Checkpoints of several kinds: where configs, tensors and tokenizers come from."""
