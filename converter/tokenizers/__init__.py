"""Tokenizer files of several kinds."""
