"""What the package exports, pinned."""

from __future__ import annotations

import inspect

import dllama

NAMES = {
    "LLM",
    "Generation",
    "ConfigError",
    "ContextError",
    "DllamaError",
    "FormatError",
    "GrammarError",
    "InputError",
    "ModelError",
    "OutputError",
    "Token",
    "UnsupportedError",
    "AuthenticationError",
    "NodeError",
    "ProtocolError",
    "TemplateError",
    "TransportError",
    "TransportTimeoutError",
    "__version__",
}


def test_exported_names():
    assert set(dllama.__all__) == NAMES
    for name in NAMES:
        assert hasattr(dllama, name)


def test_all_errors_are_in_one_tree():
    for name in NAMES:
        value = getattr(dllama, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, dllama.DllamaError)


def test_methods_and_attributes_of_the_engine():
    public = {name for name in vars(dllama.LLM) if not name.startswith("_")}
    assert public == {
        "close",
        "contexts",
        "continue_from",
        "embed",
        "eval",
        "generate",
        "generate_many",
        "interrupt",
        "memory",
        "parallel",
        "ping",
        "position",
        "reset",
        "rewind",
        "step",
        "submit",
        "submit_embedding",
        "tokens",
    }
    with dllama.LLM() as llm:
        attributes = {name for name in vars(llm) if not name.startswith("_")}
    assert attributes == {
        "timelines",
        "buffer",
        "model_path",
        "name",
        "node_names",
        "nodes",
        "seq_len",
        "spec",
        "stats",
        "threads",
        "tokenizer",
        "transport",
        "workers",
    }
