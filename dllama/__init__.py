"""Run Llama-family language models on several ordinary CPU machines at once."""

__version__ = "0.1.0"
