"""How fast nodes are, and what each therefore holds."""
