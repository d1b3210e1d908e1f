"""Kernels: the computations behind the tasks of a graph."""
