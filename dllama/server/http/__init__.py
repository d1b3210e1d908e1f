"""Connections, bodies, keys, the log and the page: what is the same for all APIs."""
