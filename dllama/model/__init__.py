"""What a model is: its spec, the types of its weights, and the files that hold it."""
