"""The version of this package. setup reads it without running the rest."""

__version__ = "0.1.0"
