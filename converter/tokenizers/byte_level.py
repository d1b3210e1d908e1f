"""Byte-level BPE tokenizers (Radford et al. 2019) as `tokenizers` objects.

The vocabulary does not say where text is split before merging. Files name the method instead; the
names are those of convert_hf_to_gguf_update.py of github.com/ggml-org/llama.cpp. The patterns are
those of the models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

from dllama.text.spelling import byte_level_table

REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"


@dataclass(frozen=True)
class Style:
    """How a family of tokenizers treats text.

    Attributes:
        pattern: regular expression for the pieces that are merged separately; "" for GPT-2's.
        digits: whether every digit is a piece.
        ignore_merges: whether a piece that is a token becomes that token without merging.
        nfc: whether text is normalised to NFC.
        add_bos: whether a text begins with BOS if the file does not say.
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
    "refact": Style(digits=True),
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
    """Build a tokenizer.

    Args:
        tokens: by id.
        merges: by rank.
        style: how text is split.
        special: tokens that stand for no text.
        added: tokens that are never split.
        bos_id: put before every text; None for nothing.

    Raises:
        Exception: a merge consists of unknown tokens.
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


def characters_of(tokens: Iterable[bytes]) -> list[str]:
    """Return tokens as byte-level tokenizers write them."""
    characters = {byte: character for character, byte in byte_level_table().items()}
    return ["".join(characters[byte] for byte in token) for token in tokens]


def merges_of(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Return all pairs of tokens that form a token, lowest ranks first."""
    tokens = characters_of(ranks)
    return [
        (tokens[ranks[left]], tokens[ranks[right]])
        for token in ranks
        for left, right in _halves(token, ranks)
    ]


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pairs of tokens that form a token, lowest ranks first."""
    cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
    found = [cut for cut in cuts if cut[0] in ranks and cut[1] in ranks]
    return sorted(found, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))


def _pre_tokenizer(style: Style) -> pre_tokenizers.PreTokenizer:
    """Create what splits text and writes its bytes as characters."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not style.pattern)
    if style.pattern:
        split = pre_tokenizers.Split(Regex(style.pattern), "isolated")
        return pre_tokenizers.Sequence([split, plain])
    if style.digits:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    return plain
