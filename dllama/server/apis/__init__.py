"""The APIs of the server: one file or folder for each, with its paths, fields and responses."""
