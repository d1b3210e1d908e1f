"""A model with sliding windows, and KV blocks so short that even short texts have many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dllama
from dllama.model.header import MAX_HEADER, read_header, write_header

WINDOW = 20
USERS = (
    "dllama._kernels.executor",
    "dllama.cluster.run_message",
    "dllama.graph.kv_layers",
    "dllama.run_config",
    "dllama.runtime.block_pool",
)


def write_windowed(path: Path, layers: Sequence[int] = (0, 1, 3), **changes: Any) -> Path:
    """Write the demo model with windows in some layers and other fields; return the path."""
    data = (Path(dllama.__path__[0]) / "demo" / "model.m").read_bytes()
    spec, size = read_header(data[:MAX_HEADER], "demo")
    spec = replace(spec, window=WINDOW, windowed=tuple(layers), **changes)
    path.write_bytes(write_header(spec) + data[size:])
    return path


def shorten_blocks(monkeypatch, positions: int) -> None:
    """Give KV blocks so many positions, a multiple of 16."""
    for module in USERS:
        monkeypatch.setattr(f"{module}.block_positions", lambda most: positions)
