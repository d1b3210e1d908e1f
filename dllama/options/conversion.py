"""Options of `dllama convert` and `dllama pull`."""

from __future__ import annotations

from dataclasses import replace

from dllama.options import QUIET, THREADS
from dllama.options.option import Option

WEIGHTS = Option(
    "weights", str, "type of the weights",
    otherwise="mixed; tensors of GGUF files and quantised integers keep their own",
)  # fmt: skip
OUTPUT_WEIGHTS = Option(
    "output_weights", str, "type of the output matrix, and of an embedding that is tied to it",
    otherwise="that of the other weights",
)  # fmt: skip
PLANNED_WEIGHTS = replace(
    WEIGHTS, help="of a config.json: type that its weights are converted to",
    otherwise="mixed, or its own for MXFP4",
)  # fmt: skip
CALIBRATION = Option(
    "calibration", str,
    "a text: round weights so that the model changes least where it reads such texts",
    metavar="TEXT",
)  # fmt: skip
CONVERSION_OPTIONS = (
    WEIGHTS,
    OUTPUT_WEIGHTS,
    CALIBRATION,
    replace(THREADS, help="threads", otherwise="one per CPU"),
    replace(QUIET, help="no progress bar, no report"),
)
OUTPUT = Option("output", str, "the folder to write", metavar="DIR")
PULL_OPTIONS = (
    replace(OUTPUT, otherwise="the repository's name"),
    Option("revision", str, "branch, tag or commit", metavar="REV", otherwise="main"),
    Option("file", str, "convert this GGUF file of the repository", metavar="NAME"),
    Option("endpoint", str, "a mirror of the hub", metavar="URL", otherwise="HF_ENDPOINT, if set"),
    Option("keep", bool, "keep the download in the cache folder afterwards", default=False),
)
