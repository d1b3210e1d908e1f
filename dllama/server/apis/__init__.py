"""The APIs of the server: one file for each, with its paths, its fields and its responses."""
