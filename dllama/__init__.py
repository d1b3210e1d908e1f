"""Run Llama-family language models on several ordinary CPU machines at once.

with dllama.LLM("model-folder") as llm:
    for token in llm.generate("MACBETH:\\n", max_tokens=64):
        print(token.text, end="", flush=True)
"""

from dllama.engine import LLM
from dllama.errors import (
    AuthenticationError,
    ConfigError,
    ContextError,
    DllamaError,
    FormatError,
    GrammarError,
    InputError,
    ModelError,
    NodeError,
    OutputError,
    ProtocolError,
    TemplateError,
    TransportError,
    TransportTimeoutError,
    UnsupportedError,
)
from dllama.scheduling.generation import Generation
from dllama.text.stream import Token
from dllama.version import __version__

__all__ = [
    "LLM",
    "AuthenticationError",
    "ConfigError",
    "ContextError",
    "DllamaError",
    "FormatError",
    "Generation",
    "GrammarError",
    "InputError",
    "ModelError",
    "NodeError",
    "OutputError",
    "ProtocolError",
    "TemplateError",
    "Token",
    "TransportError",
    "TransportTimeoutError",
    "UnsupportedError",
    "__version__",
]
