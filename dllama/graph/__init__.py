"""The forward pass as data: what each node holds, its tasks in order, and their weights."""
