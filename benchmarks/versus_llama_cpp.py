"""Time dllama and llama.cpp alternately on the same weights.

    python benchmarks/make_random_model.py tinyllama-1.1b --m tiny.m --gguf tiny.gguf
    python benchmarks/versus_llama_cpp.py tiny.m tiny.gguf --llama-python VENV/bin/python

Each program runs in a process of its own and stays loaded; they take turns, so that both meet
the same state of the machine. Printed are the medians of both and the median of the ratios of
neighbouring runs. VENV has the package llama-cpp-python, compiled for this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROMPT = 16
MEASURES = ("prefill", "decode")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("gguf", help=".gguf file of the same shape")
    parser.add_argument("--llama-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worker", choices=["dllama", "llama.cpp"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args)
        return
    results = [compare(args, threads) for threads in args.threads]
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def compare(args: argparse.Namespace, threads: int) -> dict[str, object]:
    """All rounds with one number of threads."""
    ours = Worker(sys.executable, "dllama", args, threads)
    theirs = Worker(args.llama_python, "llama.cpp", args, threads)
    result: dict[str, object] = {"threads": threads}
    for measure in MEASURES:
        for worker in (ours, theirs):
            worker.ask(measure)  # warm up
        pairs = [(ours.ask(measure), theirs.ask(measure)) for _ in range(args.rounds)]
        rates = [statistics.median(column) for column in zip(*pairs, strict=True)]
        ratio = statistics.median(a / b for a, b in pairs)
        result[measure] = {"dllama": rates[0], "llama.cpp": rates[1], "ratio": ratio}
        print(
            f"{threads} threads  {measure:<8} dllama {rates[0]:8.1f} tokens/s  "
            f"llama.cpp {rates[1]:8.1f} tokens/s  ratio {ratio:.2f}",
            flush=True,
        )
    ours.stop()
    theirs.stop()
    return result


class Worker:
    """A process that times what it is told to, one line at a time."""

    def __init__(self, python: str, name: str, args: argparse.Namespace, threads: int) -> None:
        command = [
            python, __file__, args.model, args.gguf, "--worker", name, "--threads", str(threads),
            "--prompt-tokens", str(args.prompt_tokens), "--decode-tokens", str(args.decode_tokens),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, measure: str) -> float:
        """Tokens per second of one run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(measure + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def serve(args: argparse.Namespace) -> None:
    """The other side of Worker."""
    measure = {"dllama": load_dllama, "llama.cpp": load_llama_cpp}[args.worker](args)
    for line in sys.stdin:
        print(measure(line.strip()), flush=True)


def prompt(count: int) -> list[int]:
    """Token ids that differ."""
    return [(index * 7919 + 1) % 32000 for index in range(count)]


def load_dllama(args: argparse.Namespace) -> Callable[[str], float]:
    """Tokens per second by dllama's own statistics, sampling (greedy) included."""
    import dllama

    llm = dllama.LLM(args.model, threads=args.threads[0], max_seq_len=1024)

    def measure(what: str) -> float:
        llm.reset()
        if what == "prefill":
            list(llm.generate(prompt(args.prompt_tokens), 1, temperature=0.0))
            return llm.stats.summary()["prompt_tokens_per_s"]
        list(llm.generate(prompt(PROMPT), args.decode_tokens + 1, temperature=0.0))
        return llm.stats.summary()["tokens_per_s"]

    return measure


def load_llama_cpp(args: argparse.Namespace) -> Callable[[str], float]:
    """Tokens per second by the clock around llama_decode, without sampling."""
    import time

    import llama_cpp as lib

    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(args.gguf.encode(), lib.llama_model_default_params())
    options = lib.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 1024, 512, 512
    options.n_threads = options.n_threads_batch = args.threads[0]
    context = lib.llama_init_from_model(model, options)

    def decode(ids: list[int]) -> None:
        array = (lib.llama_token * len(ids))(*ids)
        if lib.llama_decode(context, lib.llama_batch_get_one(array, len(ids))) != 0:
            raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(context)

    def measure(what: str, silent: object = silent) -> float:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        count = args.prompt_tokens
        if what == "prefill":
            ids = prompt(count)
            begin = time.perf_counter()
            for at in range(0, count, 512):
                decode(ids[at : at + 512])
        else:
            decode(prompt(PROMPT))
            count = args.decode_tokens
            begin = time.perf_counter()
            for token in prompt(count):
                decode([token])
        return count / (time.perf_counter() - begin)

    return measure


if __name__ == "__main__":
    main()
