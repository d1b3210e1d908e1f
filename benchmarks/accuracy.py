"""Perplexity of a Hugging Face model with every weight type.

python benchmarks/accuracy.py FOLDER --text tests/data/heldout.txt
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import dllama
from dllama.converter import convert
from dllama.perplexity import perplexity

TEXT = Path(__file__).parent.parent / "tests" / "data" / "heldout.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="Hugging Face folder")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--context", type=int, default=512)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    reference = 0.0
    for weights in ("f32", "f16", "q80", "q40"):
        with tempfile.TemporaryDirectory() as folder:
            convert(args.source, Path(folder) / "model", weights, progress=False)
            with dllama.LLM(Path(folder) / "model") as llm:
                assert llm.tokenizer is not None
                ids = llm.tokenizer.encode(text, add_bos=False)
                measured = perplexity(llm, ids, args.context)
        reference = reference or measured.perplexity
        print(
            f"{weights}  perplexity {measured.perplexity:.4f}  "
            f"{100 * (measured.perplexity / reference - 1):+.2f} %  {measured.tokens} tokens"
        )


if __name__ == "__main__":
    main()
