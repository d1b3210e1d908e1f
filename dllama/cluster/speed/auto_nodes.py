"""One process on all NUMA domains of this machine, or a node for each: whichever is faster."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dllama.cluster.domains import domains
from dllama.cluster.layout import Layout
from dllama.cluster.local import START
from dllama.errors import ConfigError
from dllama.model.stored_model import StoredModel
from dllama.options.option import Option, checked
from dllama.run_config import RunConfig
from dllama.runtime.kept_file import kept_path, read_kept, write_kept
from dllama.runtime.kept_speed import machine
from dllama.scratch import Scratch

log = logging.getLogger("dllama.engine")

GAIN = 1.03  # several nodes take more memory, so they have to be faster by this factor
PROMPT, STEPS = 8, 24  # tokens of the text that is timed
PATIENCE = 1800.0  # seconds in which a large model loads from a slow disk


@dataclass(frozen=True)
class Rates:
    """Tokens per second of both ways; 0 for one that failed."""

    nodes: float
    alone: float

    @classmethod
    def from_json(cls, content: object) -> Rates:
        """Check what a file holds; ValueError says what is wrong."""
        if not isinstance(content, dict):
            raise ValueError("expected an object")
        return cls(**checked(FIELDS, content))

    @property
    def several(self) -> bool:
        """Whether a node for each domain is faster."""
        return self.nodes > GAIN * self.alone


FIELDS = tuple(
    Option(name, float, "tokens per second", least=0, above=True) for name in ("nodes", "alone")
)


def settle(model: StoredModel, layout: Layout, config: RunConfig) -> tuple[Layout, RunConfig]:
    """Return the faster of a node for each NUMA domain and one process.

    It measures both with the model, unless that was done before: the rates are kept in the user's
    cache folder.

    Args:
        model: the open model.
        layout: a node for each domain; what is settled already stays.
        config: for these nodes.
    """
    if not layout.alone:
        return layout, config
    path = kept_path("nodes", _key(model, layout, config))
    rates = read_kept(path, Rates.from_json)
    said = logging.INFO if rates else logging.WARNING
    if rates is None:
        rates = _measure(model, layout, config)
        if rates.nodes and rates.alone:
            write_kept(path, asdict(rates))
    if rates.several:
        words = "nodes: %d, one per NUMA domain: %.1f tokens/s, one process %.1f"
        log.log(said, words, layout.world_size, rates.nodes, rates.alone)
        return replace(layout, alone=0), config
    words = "nodes: 1, one process on %d NUMA domains: %.1f tokens/s, a node for each %.1f"
    log.log(said, words, layout.world_size, rates.alone, rates.nodes)
    return Layout(None, threads=(layout.alone,)), replace(config, shares=(1.0,))


def _key(model: StoredModel, layout: Layout, config: RunConfig) -> list[object]:
    """What the rates depend on."""
    files = [(str(path.absolute()), path.stat()) for path in model.files]
    sizes = [[path, found.st_size, found.st_mtime_ns] for path, found in files]
    name = layout.transport and layout.transport.name
    how = [config.buffer, config.all_reduce, config.kv_cache]
    return [*machine(), domains(), layout.threads, layout.alone, name, how, sizes]


def _measure(model: StoredModel, layout: Layout, config: RunConfig) -> Rates:
    """Time both ways, in processes of their own: threads that this one has would stay where they
    were first."""
    count = layout.world_size
    log.warning("nodes: measuring one process, and a node for each of %d NUMA domains, once", count)
    return Rates(
        nodes=_rate(model, layout, config, count, layout.threads[0]),
        alone=_rate(model, layout, config, 1, layout.alone),
    )


def _rate(model: StoredModel, layout: Layout, config: RunConfig, nodes: int, threads: int) -> float:
    """Tokens per second of some nodes with so many threads each; 0 if they cannot run."""
    assert layout.transport is not None
    prompt = min(PROMPT, config.seq_len // 2)
    options = {
        "model": model.path, "nodes": nodes, "threads": threads,
        "transport": layout.transport.name, "buffer": config.buffer,
        "all-reduce": config.all_reduce, "timeout": config.timeout,
        "max-seq-len": config.seq_len, "kv-cache": config.kv_cache, "prompt-tokens": prompt,
        "steps": max(2, min(STEPS, config.seq_len - prompt)), "repeats": 1,
    }  # fmt: skip
    with Scratch(Path(tempfile.gettempdir()), ".dllama-nodes-") as scratch:
        report = scratch.path / "bench.json"
        words = [f"--{name}={value}" for name, value in options.items()]
        try:
            _run(["bench", *words, "--requantise", "--quiet", "--json", str(report)])
            return float(json.loads(report.read_text())["cases"][0]["tokens_per_s"])
        except ConfigError as error:
            which = "one process" if nodes == 1 else f"{nodes} nodes"
            log.warning("nodes: %s cannot be measured: %s", which, error)
            return 0.0


def _run(words: Sequence[str]) -> None:
    """Run a command of dllama in a process; ConfigError has the last line that it said."""
    command = [sys.executable, "-c", START.format(path=sys.path), *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfigError(f"it takes more than {PATIENCE:g} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ConfigError(said[-1] if said else f"exit status {done.returncode}")
