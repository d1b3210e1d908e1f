"""What the package exports, pinned."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
import typing

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
    assert set(dir(dllama)) >= NAMES
    assert not hasattr(dllama, "Sampler")


def test_type_checkers_see_the_same_names(monkeypatch):
    """And no __getattr__, with which they would accept any other."""
    monkeypatch.setattr(typing, "TYPE_CHECKING", True)
    seen = runpy.run_path(dllama.__file__)
    assert seen.keys() >= NAMES
    assert "__getattr__" not in seen


def test_the_start_of_a_worker_loads_no_engine():
    """Nor other libraries that take a while to load and that a worker does not need."""
    code = "import sys, dllama.cli.worker; print(*{name.partition('.')[0] for name in sys.modules})"
    code += "; assert 'dllama.engine' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"dllama", "numpy"} <= loaded
    assert not loaded & {"tokenizers", "tqdm", "yaml", "zeroconf"}


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
