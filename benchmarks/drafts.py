"""Time generation with and without drafts, in turns, on texts that repeat and one that does not.

    python benchmarks/drafts.py qwen2.5-coder-0.5b-q4_k_m.gguf
    python benchmarks/drafts.py MODEL --draft SMALL-MODEL

The model continues a program that stands in the prompt (copy), the same with another name for a
variable (edit), and a story (free). Of programs it takes the likeliest tokens; stories are sampled,
so that they do not repeat themselves. Both texts must be equal.
"""

from __future__ import annotations

import argparse
import statistics

import dllama

PROGRAM = '''\
def merge_intervals(intervals):
    """Merge overlapping intervals, given as pairs of numbers."""
    if not intervals:
        return []
    ordered = sorted(intervals, key=lambda pair: pair[0])
    merged = [list(ordered[0])]
    for start, end in ordered[1:]:
        last = merged[-1]
        if start <= last[1]:
            last[1] = max(last[1], end)
        else:
            merged.append([start, end])
    return [tuple(pair) for pair in merged]


def total_length(intervals):
    """Return the length of the union of intervals."""
    return sum(end - start for start, end in merge_intervals(intervals))


def gaps(intervals):
    """Yield the gaps between merged intervals, as pairs of numbers."""
    merged = merge_intervals(intervals)
    for (_, end), (start, _) in zip(merged, merged[1:]):
        yield end, start
'''
BEGINNING = "\n".join(PROGRAM.splitlines()[:7]) + "\n"
FREE = "free"
TASKS = {
    "copy": f"# intervals.py\n{PROGRAM}\n# intervals.py, the same file again\n{BEGINNING}",
    "edit": f"# old version\n{PROGRAM}\n# new version: ranges instead of intervals\n"
    + BEGINNING.replace("interval", "range"),
    FREE: "Once upon a time, in a small village by the sea, there lived an old clockmaker who",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--draft", default="ngram")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    options = {"threads": args.threads, "nodes": args.nodes, "max_seq_len": 2048}
    with (
        dllama.LLM(args.model, **options) as plain,
        dllama.LLM(args.model, draft=args.draft, **options) as drafting,
    ):
        for task, prompt in TASKS.items():
            sampling = {"temperature": 1.0 if task == FREE else 0.0, "seed": 1}
            pairs = [
                (run(plain, prompt, args, sampling), run(drafting, prompt, args, sampling))
                for _ in range(args.rounds)
            ]
            assert all(a[0] == b[0] for a, b in pairs), "drafts changed the text"
            rates = [statistics.median(one[side][1] for one in pairs) for side in (0, 1)]
            ratio = statistics.median(b[1] / a[1] for a, b in pairs)
            summary = drafting.stats.summary()
            print(
                f"{task}  without {rates[0]:7.1f} tokens/s  with {rates[1]:7.1f} tokens/s  ratio "
                f"{ratio:.2f}  {summary['accepted']} of {summary['drafted']} drafted accepted",
                flush=True,
            )


def run(
    llm: dllama.LLM, prompt: str, args: argparse.Namespace, sampling: dict[str, float]
) -> tuple[list[int], float]:
    """Return the ids of a text, and tokens per second."""
    llm.reset()
    ids = [t.id for t in llm.generate(prompt, args.tokens, ignore_eos=True, **sampling)]
    return ids, llm.stats.summary()["tokens_per_s"]


if __name__ == "__main__":
    main()
