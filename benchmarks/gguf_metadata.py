"""The tokenizer in the metadata of a GGUF file, as llama.cpp's converter writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KEY = "tokenizer.ggml."


def of_json(folder: Path, pre: str | None) -> dict[str, Any]:
    """Return the metadata for tokenizer.json and tokenizer_config.json in a folder.

    Args:
        folder: where they are.
        pre: name of the pre-tokenizer; None for SentencePiece. Its scores are not in
            tokenizer.json, but they are the order of the ids, except for runs of spaces, which
            merge last.
    """
    config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    model, added = config["model"], {entry["id"]: entry for entry in config["added_tokens"]}
    names = {index: name for name, index in model["vocab"].items()}
    names |= {index: entry["content"] for index, entry in added.items()}
    count = max(names) + 1
    tokens = [names.get(index, f"[PAD{index}]") for index in range(count)]
    types = [_type(index, names.get(index), added, pre) for index in range(count)]
    if pre is None:
        tokens = [_plain(t) if k == USER_DEFINED else t for t, k in zip(tokens, types, strict=True)]
    metadata = _common(tokens, types, settings, {name: index for index, name in names.items()})
    if pre is None:
        scores = np.array(
            [_score(i, t, k) for i, (t, k) in enumerate(zip(tokens, types, strict=True))]
        )
        prefix = "Prepend" in json.dumps(config["normalizer"])
        return metadata | {
            f"{KEY}model": "llama",
            f"{KEY}pre": "default",
            f"{KEY}scores": scores.astype(np.float32),
            f"{KEY}add_space_prefix": prefix,
        }
    pairs = [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]
    merges = [" ".join(pair) for pair in pairs]
    return metadata | {f"{KEY}model": "gpt2", f"{KEY}pre": pre, f"{KEY}merges": merges}


def of_sentencepiece(model: Any) -> dict[str, Any]:
    """Return the metadata for a SentencePieceProcessor with Llama's settings."""
    count = range(model.vocab_size())
    types = [
        UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i)
        else UNUSED if model.is_unused(i) else BYTE if model.is_byte(i) else NORMAL
        for i in count
    ]  # fmt: skip
    return {
        f"{KEY}model": "llama",
        f"{KEY}pre": "default",
        f"{KEY}tokens": [model.id_to_piece(i) for i in count],
        f"{KEY}scores": np.array([model.get_score(i) for i in count], np.float32),
        f"{KEY}token_type": np.array(types, np.int32),
        f"{KEY}bos_token_id": model.bos_id(),
        f"{KEY}eos_token_id": model.eos_id(),
        f"{KEY}add_bos_token": True,
    }


def _common(
    tokens: list[str], types: list[int], settings: dict[str, Any], ids: dict[str, int]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        f"{KEY}tokens": tokens,
        f"{KEY}token_type": np.array(types, np.int32),
    }
    for key in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{key}_token")
        name = token.get("content") if isinstance(token, dict) else token
        named = {"unk": "unknown", "pad": "padding"}.get(key, key)
        if name in ids:
            metadata[f"{KEY}{named}_token_id"] = ids[name]
    for key in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(key), bool):
            metadata[KEY + key] = settings[key]
    return metadata


def _type(index: int, name: str | None, added: dict[int, Any], pre: str | None) -> int:
    if name is None:
        return UNUSED
    if pre is None and name == "<unk>":
        return UNKNOWN
    if index in added:
        return CONTROL if added[index]["special"] or _looks_special(name) else USER_DEFINED
    if pre is None and len(name) == 6 and name.startswith("<0x"):
        return BYTE
    return NORMAL


def _score(index: int, token: str, kind: int) -> float:
    if kind != NORMAL:
        return 0.0
    return -float(index) if token.strip("\u2581") else -1e9


def _looks_special(name: str) -> bool:
    """Whether the converter takes a token for one that stands for no text."""
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return name in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        name.startswith(begin) and name.endswith(end) for begin, end in ends
    )


def _plain(name: str) -> str:
    return name.replace("\u2581", " ")
