"""Run Llama-family language models on several ordinary CPU machines at once.

with dllama.LLM("model-folder") as llm:
    for token in llm.generate("MACBETH:\\n", max_tokens=64):
        print(token.text, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from dllama.version import __version__

if TYPE_CHECKING:
    from dllama.engine import LLM
    from dllama.scheduling.generation import Generation
    from dllama.text.stream import Token

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

# Imported when they are first used: most commands, workers among them, need less than an engine.
_LATER = {
    "LLM": "dllama.engine",
    "Generation": "dllama.scheduling.generation",
    "Token": "dllama.text.stream",
}

if not TYPE_CHECKING:  # which would take every name for one of this module

    def __getattr__(name: str) -> Any:
        """Import a name of _LATER."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_LATER[name]), name)
        return value


def __dir__() -> list[str]:
    """All names, whether they were used or not."""
    return sorted({*globals(), *_LATER})
