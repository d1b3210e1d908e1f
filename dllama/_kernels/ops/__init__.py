"""Kernels: what the tasks of a pass compute."""
