"""Converts checkpoints of several formats to model folders for dllama."""

from dllama.converter.convert import Report, convert

__all__ = ["Report", "convert"]
