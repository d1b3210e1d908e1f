"""Turns checkpoints of several kinds into model folders for dllama."""

from dllama.converter.convert import Report, convert

__all__ = ["Report", "convert"]
