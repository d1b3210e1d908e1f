"""Several nodes as one model: the root, its workers, and what they say to each other."""
