"""Time the generation of several texts at once, by dllama and by llama.cpp in turns.

    python benchmarks/many_texts.py tiny.m tiny.gguf --llama-python VENV/bin/python

Both take random prompts of 16 tokens and then decode one token of every text per pass. llama.cpp's
time is that of llama_decode, without sampling. VENV needs the package llama-cpp-python, compiled
for this machine; without --llama-python, only dllama runs. `dllama bench --parallel 1,2,4` also
shows times to the first token, and several nodes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from turns import Contestant, answer

PROMPT = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m or .gguf file for dllama")
    parser.add_argument("gguf", nargs="?", help="the same weights for llama.cpp")
    parser.add_argument("--llama-python", metavar="PYTHON")
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="of dllama, threads each")
    parser.add_argument("--tokens", type=int, default=32, help="of each text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestant", choices=["dllama", "llama.cpp"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        load = load_dllama if args.contestant == "dllama" else load_llama_cpp
        answer(load(args))
    else:
        print("texts  " + "".join(f"{name:>24}" for name in pythons(args)) + "   ratio", flush=True)
        base: dict[str, float] = {}
        for texts in args.texts:
            race(args, texts, base)


def pythons(args: argparse.Namespace) -> dict[str, str]:
    """Return the interpreter of each program."""
    found = {"dllama": sys.executable}
    return found | ({"llama.cpp": args.llama_python} if args.llama_python else {})


def race(args: argparse.Namespace, texts: int, base: dict[str, float]) -> None:
    """Print tokens/s of all texts, and how many times that of the first number it is."""
    rest = [args.model, args.gguf or "-", "--texts", str(texts), "--threads", str(args.threads),
            "--nodes", str(args.nodes), "--tokens", str(args.tokens)]  # fmt: skip
    contestants = [
        Contestant(name, [python, __file__, *rest, "--contestant", name])
        for name, python in pythons(args).items()
    ]
    for one in contestants:
        one.ask("warm up")
    rounds = [[one.ask("decode") for one in contestants] for _ in range(args.rounds)]
    line = f"{texts:5d}  "
    for one, rates in zip(contestants, zip(*rounds, strict=True), strict=True):
        rate = statistics.median(rates)
        line += f"{rate:9.1f} tokens/s {rate / base.setdefault(one.name, rate):4.2f} x"
    if len(contestants) == 2:
        line += f"   {statistics.median(ours / theirs for ours, theirs in rounds):.2f}"
    print(line, flush=True)
    for one in contestants:
        one.stop()


def prompts(texts: int, vocab: int) -> list[list[int]]:
    """Return prompts that begin differently."""
    return [[(7919 * (n * PROMPT + at) + 1) % vocab for at in range(PROMPT)] for n in range(texts)]


def load_dllama(args: argparse.Namespace) -> Callable[[str], float]:
    """Return tokens per second of passes that generate, sampling (the likeliest) included."""
    import dllama

    (texts,) = args.texts
    llm = dllama.LLM(
        args.model, threads=args.threads, nodes=args.nodes, parallel=texts, max_seq_len=512,
        contexts=max(1, texts // 2),
    )  # fmt: skip

    def measure(_: str) -> float:
        llm.reset()
        starts = prompts(texts, llm.spec.vocab_size)
        for _token in llm.generate_many(starts, args.tokens, temperature=0.0, ignore_eos=True):
            pass
        return llm.stats.summary()["tokens_per_s"]

    return measure


def load_llama_cpp(args: argparse.Namespace) -> Callable[[str], float]:
    """Return tokens per second, timed around llama_decode."""
    import llama_cpp as lib

    (texts,) = args.texts
    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(args.gguf.encode(), lib.llama_model_default_params())
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    options = lib.llama_context_default_params()
    options.n_ctx, options.n_seq_max = texts * 512, texts
    options.n_batch = options.n_ubatch = max(512, texts * PROMPT)
    options.n_threads = options.n_threads_batch = args.threads
    context = lib.llama_init_from_model(model, options)
    batch = lib.llama_batch_init(texts * PROMPT, 0, 1)

    def decode(rows: list[tuple[int, int, int]]) -> None:
        """Evaluate (id, position, text) of each row; all logits are wanted."""
        batch.n_tokens = len(rows)
        for at, (token, position, text) in enumerate(rows):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, text, True
        if lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(context)

    def measure(_: str, silent: object = silent) -> float:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        starts = prompts(texts, vocab)
        decode([(ids[at], at, n) for n, ids in enumerate(starts) for at in range(PROMPT)])
        begin = time.perf_counter()
        for step in range(1, args.tokens):
            rows = [((7919 * step + n) % vocab, PROMPT + step - 1, n) for n in range(texts)]
            decode(rows)
        return texts * (args.tokens - 1) / (time.perf_counter() - begin)

    return measure


if __name__ == "__main__":
    main()
