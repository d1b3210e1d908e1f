"""Runs two programs alternately; shared by the scripts that compare.

Each program runs in a process of its own and stays loaded, so both see the machine in the same
state. The scripts print the medians of both, and the median of the ratios of consecutive runs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

MEASURES = ("prefill", "decode")
PROMPT = 16


def add_options(parser: argparse.ArgumentParser, threads: Sequence[int]) -> None:
    """Add the options of all comparisons; `threads` are the default numbers of threads."""
    parser.add_argument("--threads", type=int, nargs="+", default=threads)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)


def words(args: argparse.Namespace, threads: int) -> list[str]:
    """Return these options for a contestant with one number of threads."""
    return [
        "--threads", str(threads), "--prompt-tokens", str(args.prompt_tokens),
        "--decode-tokens", str(args.decode_tokens),
    ]  # fmt: skip


class Contestant:
    """A process that runs and times one measure per line of its input."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, measure: str) -> float:
        """Run once and return the tokens per second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(measure + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def answer(measure: Callable[[str], float]) -> None:
    """Serve a Contestant from its process."""
    for line in sys.stdin:
        print(measure(line.strip()), flush=True)


def compare(
    ours: Contestant, theirs: Contestant, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Run all rounds of all measures, and print a line for each measure."""
    result = {}
    for measure in MEASURES:
        for contestant in (ours, theirs):
            contestant.ask(measure)  # warm up
        pairs = [(ours.ask(measure), theirs.ask(measure)) for _ in range(rounds)]
        rates = [statistics.median(column) for column in zip(*pairs, strict=True)]
        ratio = statistics.median(a / b for a, b in pairs)
        result[measure] = {ours.name: rates[0], theirs.name: rates[1], "ratio": ratio}
        print(
            f"{threads} threads  {measure:<8} {ours.name} {rates[0]:8.1f} tokens/s  "
            f"{theirs.name} {rates[1]:8.1f} tokens/s  ratio {ratio:.2f}",
            flush=True,
        )
    return result


def prompt(count: int) -> list[int]:
    """Return varying token ids."""
    return [(index * 7919 + 1) % 32000 for index in range(count)]


def load_dllama(args: argparse.Namespace) -> Callable[[str], float]:
    """Return tokens per second from dllama's statistics, including (greedy) sampling."""
    import dllama

    llm = dllama.LLM(args.model, threads=args.threads[0], max_seq_len=1024)

    def measure(what: str) -> float:
        llm.reset()
        if what == "prefill":
            list(llm.generate(prompt(args.prompt_tokens), 1, temperature=0.0, ignore_eos=True))
            return llm.stats.summary()["prompt_tokens_per_s"]
        list(llm.generate(prompt(PROMPT), args.decode_tokens + 1, temperature=0.0, ignore_eos=True))
        return llm.stats.summary()["tokens_per_s"]

    return measure


def read_bandwidth(threads: int, rounds: int = 3) -> float:
    """Return the best rate in GB/s at which this many threads read memory (read_bandwidth.c)."""
    return _run_c("read_bandwidth.c", "600", str(threads), str(rounds))


def integer_rate(rounds: int = 7) -> float:
    """Return one core's G multiply-adds/s of 8-bit integers (integer_rate.c)."""
    return _run_c("integer_rate.c", str(rounds))


def _run_c(name: str, *arguments: str) -> float:
    """Compile a C program of this folder for this machine and return the number that it prints."""
    source = str(Path(__file__).with_name(name))
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "program"))
        command = ["cc", "-O3", "-march=native", "-fopenmp", source, "-o", program]
        subprocess.run(command, check=True)
        done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def weight_bytes(model: str) -> int:
    """Return the bytes of matrices that a token reads: of routed experts the part that it takes, of
    the embedding all if it is the output too, else nothing."""
    from dllama.model_path import open_model

    with open_model(model) as file:
        read = {False: 0, True: 0}  # by whether the matrix belongs to an expert
        for tensor in file.tensors.values():
            if len(tensor.shape) == 2 and (tensor.name != "embedding" or file.spec.tied):
                nbytes = tensor.weight_type.nbytes(tensor.shape[0] * tensor.shape[1])
                read[".experts." in tensor.name] += nbytes
        return read[False] + read[True] * file.spec.n_active_experts // max(1, file.spec.n_experts)
