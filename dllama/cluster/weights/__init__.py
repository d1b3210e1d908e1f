"""Weights on their way to workers, and what is kept of them."""
