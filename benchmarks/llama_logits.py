"""Write the logits of llama.cpp for some tokens. real_models.py runs it.

python llama_logits.py FILE.gguf FOLDER      # reads FOLDER/ids.npy, writes FOLDER/logits.npy
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def main() -> None:
    folder, threads = Path(sys.argv[2]), os.cpu_count() or 1
    ids = np.load(folder / "ids.npy").tolist()
    model = llama_cpp.Llama(
        sys.argv[1], n_ctx=len(ids), n_batch=len(ids), n_threads=threads,
        n_threads_batch=threads, logits_all=True, verbose=False,
    )  # fmt: skip
    model.eval(ids)
    np.save(folder / "logits.npy", np.array(model.scores[: len(ids)]))


if __name__ == "__main__":
    main()
