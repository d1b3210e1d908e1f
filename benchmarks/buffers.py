"""Measure what the buffers of all-reduces cost in accuracy, on GGUF files.

    python benchmarks/buffers.py FILE.gguf... --nodes 2 3 4

Prints the divergence of Kullback and Leibler, in nats per token with its standard error, from the
file's own weights in f32, and the share of tokens for which both find the same token likeliest. The
text is the beginning of tests/data/heldout.txt.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dllama
from dllama import options
from dllama.converter import convert
from dllama.perplexity import divergences

TEXT = Path(__file__).parents[1] / "tests" / "data" / "heldout.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--buffers", nargs="+", default=options.BUFFER.choices)
    parser.add_argument("--tokens", type=int, default=400, help="of the text")
    args = parser.parse_args()
    for path in args.files:
        print(path.name)
        ids, reference = in_f32(path, args.tokens)
        for nodes in args.nodes:
            for buffer in args.buffers:
                with dllama.LLM(path, nodes=nodes, threads=1, buffer=buffer) as llm:
                    report(f"{nodes} nodes, {buffer}", reference, llm.eval(ids))


def in_f32(path: Path, tokens: int) -> tuple[list[int], NDArray[np.float32]]:
    """The ids of the text, and the logits of the file's weights in f32."""
    with tempfile.TemporaryDirectory() as place:
        convert(path, Path(place, "f32"), "f32", progress=False)
        with dllama.LLM(Path(place, "f32")) as llm:
            assert llm.tokenizer is not None
            text = TEXT.read_text(encoding="utf-8")[: 20 * tokens]
            ids = llm.tokenizer.encode(text)[:tokens]
            return ids, llm.eval(ids)


def report(name: str, reference: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    each = divergences(logits, reference)
    same = (reference.argmax(axis=1) == logits.argmax(axis=1)).mean()
    error = each.std() / len(each) ** 0.5
    print(f"  {name:<14} {each.mean():.5f} +- {error:.5f}  same token {same:6.1%}", flush=True)


if __name__ == "__main__":
    main()
