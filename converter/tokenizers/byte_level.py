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

SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")
SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES
# Letters of Latin, Greek, Cyrillic, Armenian, Georgian and Cherokee, and some others.
LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌ"
    "ῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
CJK = "[一-龥ࠀ-一가-퟿]+"


@dataclass(frozen=True)
class Style:
    """How a family of tokenizers treats text.

    Args:
        patterns: regular expressions that cut text into the pieces that are merged separately, one
            after another; none: GPT-2's.
        digits: whether every digit is a piece.
        ignore_merges: whether a piece that is a token becomes that token without merging.
        nfc: whether text is normalised to NFC.
        add_bos: whether a text begins with BOS if the file does not say.
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False


_CL100K = WORDS + r"|\p{N}{1,3}" + REST
_LLAMA3 = Style((_CL100K,), ignore_merges=True, add_bos=True)
_QWEN2 = Style((WORDS + r"|\p{N}" + REST,), nfc=True)
_DIGITS = Style(digits=True)
_NEOX = Style(nfc=True)  # GPT-NeoX's
STYLES = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "smaug-bpe": Style((_CL100K,), ignore_merges=True),  # also SmolLM3
    "dbrx": Style((_CL100K,)),  # also OLMo 2 and Phi-4
    "chatglm-bpe": Style((_CL100K,)),
    "glm4": Style((_CL100K,), ignore_merges=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "stablelm2": _QWEN2,
    "qwen35": Style(
        (
            ENDINGS
            + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
            + SPACES,
        ),
        nfc=True,
    ),
    "gpt-2": Style(),
    "exaone4": Style(),
    "a.x-4.0": Style(),
    "mellum": Style(),
    "trillion": Style(),
    "mpt": _NEOX,
    "olmo": _NEOX,  # also StableLM 3B
    "smollm": _DIGITS,
    "refact": _DIGITS,
    "starcoder": _DIGITS,
    "minerva-7b": _DIGITS,
    "seed-coder": Style((WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+" + SPACES,)),
    "gpt-4o": Style((f"{CASED[0]}{ENDINGS}?|{CASED[1]}{ENDINGS}?" + r"|\p{N}{1,3}" + SLASHES,)),
    "tekken": Style(
        (f"{CASED[0]}|{CASED[1]}" + r"|\p{N}" + SLASHES,), ignore_merges=True, add_bos=True
    ),
    "deepseek-v3": Style(
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + SPACES,
        )
    ),
    "deepseek-llm": Style(
        (
            r"[\r\n]",
            rf"\s?[{LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            CJK,
        ),
        digits=True,
    ),
    "deepseek-coder": Style((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK), digits=True),
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
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in style.patterns
    ]
    if style.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not style.patterns))
    return pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
