"""The forward pass as data: who holds what, which tasks follow each other, and their weights."""
