"""Time dllama and llama.cpp alternately with the same weights.

    python benchmarks/make_random_model.py tinyllama-1.1b --m tiny.m --gguf tiny.gguf
    python benchmarks/versus_llama_cpp.py tiny.m tiny.gguf --llama-python VENV/bin/python

VENV needs the package llama-cpp-python, compiled for this machine. The rate of decoding is also
printed in GB/s of weights, next to the best rate at which the same number of threads read memory
before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from turns import (
    PROMPT,
    Contestant,
    add_options,
    answer,
    compare,
    load_dllama,
    prompt,
    read_bandwidth,
    weight_bytes,
    words,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m or .gguf file")
    parser.add_argument("gguf", help=".gguf file of the same shape, or the same file")
    parser.add_argument("--llama-python", default=sys.executable, metavar="PYTHON")
    add_options(parser, [1, 4])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--contestant", choices=["dllama", "llama.cpp"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant == "dllama":
        answer(load_dllama(args))
    elif args.contestant == "llama.cpp":
        answer(load_llama_cpp(args))
    else:
        results = [contest(args, threads) for threads in args.threads]
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def contest(args: argparse.Namespace, threads: int) -> dict[str, object]:
    """Run all rounds with one number of threads."""
    rest = [args.model, args.gguf, *words(args, threads)]
    before = read_bandwidth(threads)
    contestants = [
        Contestant(name, [python, __file__, *rest, "--contestant", name])
        for name, python in (("dllama", sys.executable), ("llama.cpp", args.llama_python))
    ]
    result = compare(contestants[0], contestants[1], args.rounds, threads)
    for contestant in contestants:
        contestant.stop()
    memory = max(before, read_bandwidth(threads))
    read = weight_bytes(args.model) * result["decode"]["dllama"] / 1e9
    print(
        f"{threads} threads  decode   {read:.1f} GB/s of weights, {read / memory:.0%} of the "
        f"{memory:.1f} GB/s that {threads} threads read",
        flush=True,
    )
    return {"threads": threads, **result, "weights_gb_s": read, "memory_gb_s": memory}


def load_llama_cpp(args: argparse.Namespace) -> Callable[[str], float]:
    """Return tokens per second, timed around llama_decode, without sampling."""
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
