"""Tokenizer files of several formats."""
