"""Byte-level BPE tokenizers (Radford et al. 2019) as `tokenizers` objects.

Where texts are cut before merging is not in the vocabulary: it goes by a name, as in
convert_hf_to_gguf_update.py of github.com/ggml-org/llama.cpp. The patterns are those of the
models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"


@dataclass(frozen=True)
class Style:
    """How a family of tokenizers treats texts.

    pattern: what is merged on its own; empty for that of GPT-2. digits: each digit on its own.
    ignore_merges: a piece of the text that is a token is that token. nfc: normalise to NFC.
    add_bos: whether a text begins with a bos where the file does not say.
    """

    pattern: str = ""
    digits: bool = False
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_LLAMA3 = Style(WORDS + r"|\p{N}{1,3}" + REST, ignore_merges=True, add_bos=True)
_QWEN2 = Style(WORDS + r"|\p{N}" + REST, nfc=True)
STYLES = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-2": Style(),
    "smollm": Style(digits=True),
    "tekken": Style(
        CASED + r"|\p{N}" + REST.replace(r"[\r\n]*", r"[\r\n/]*", 1),
        ignore_merges=True,
        add_bos=True,
    ),
}


def build_bytelevel(
    tokens: Sequence[str],
    merges: list[tuple[str, str]],
    style: Style,
    *,
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    bos_id: int | None = None,
) -> Tokenizer:
    """The tokenizer of tokens by id and merges by rank.

    special: tokens without text; added: tokens that are taken whole. bos_id: put before every
    text, None for nothing. Raises Exception for merges of what are no tokens.
    """
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=style.ignore_merges))
    if style.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(style)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    if bos_id is not None:
        bos = tokens[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    return tokenizer


def _pre_tokenizer(style: Style) -> pre_tokenizers.PreTokenizer:
    """Cuts a text, and writes its bytes as characters."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not style.pattern)
    if style.pattern:
        split = pre_tokenizers.Split(Regex(style.pattern), "isolated")
        return pre_tokenizers.Sequence([split, plain])
    if style.digits:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    return plain
