"""Grammars: which tokens may come next, so that a text fits what was asked for.

The package llguidance keeps the state of a text and says which tokens go on. It knows tokens by
their bytes. It is imported when the first grammar is compiled, so nothing else needs it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ConfigError, GrammarError
from dllama.sampling.json_schema import bounded, closed
from dllama.text.tokenizer import Tokenizer

# Between the values of JSON: nothing, a space, or a line break and an indentation. Any number of
# either would be right too, and small models would then write nothing else to the end.
WHITESPACE = r"( |\r?\n[ \t]{0,20})"
MOST_REASON = 300  # characters of a reason in a message
# Grammars beyond these take seconds to compile, and gigabytes.
MAX_SOURCE = 1 << 17  # characters
FUEL = 50_000  # of llguidance, for the expressions of a grammar; 4 of them are as much as "a?"
# Of the parser, for a token. JSON takes up to 1000. An ambiguous grammar that takes more soon takes
# seconds for a token, and all texts wait.
MOST_ITEMS = 4000
Mask = NDArray[np.uint8]  # (at least ceil(vocabulary / 8),): bit i % 8 of byte i // 8 is token i


class GrammarText(NamedTuple):
    """What a text may be, before it is compiled.

    Attributes:
        kind: one of KINDS.
        value: a JSON schema (parsed, or as JSON), a regular expression, a list of texts, a grammar
            in Lark's or llama.cpp's notation, or one in Lark's notation for sure.
        name: what to call it in messages: the argument, option or field.
        lenient: leave out what a schema says and a grammar cannot, instead of refusing it.
        around: a grammar in Lark's notation that calls all of the above "@text"; "" for none.
    """

    kind: str
    value: Any
    name: str
    lenient: bool = False
    around: str = ""

    @classmethod
    def of(cls, **values: Any) -> GrammarText | None:
        """Return the grammar of arguments that have the names of KINDS; None if all are None.

        Raises:
            ConfigError: there are several.
        """
        given = [name for name, value in values.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: only one of them can be given")
        return cls(given[0], values[given[0]], given[0]) if given else None


class Constraint:
    """What a text that is being generated may go on with.

    Args:
        matcher: llguidance's, at the beginning of a text.
        vocab_size: of the tokenizer; the bit after its tokens says that the text may end.
        ends: ids that end a text.
        name: of the grammar, for messages.
    """

    def __init__(self, matcher: Any, vocab_size: int, ends: Sequence[int], name: str) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._ends = tuple(token for token in ends if token < vocab_size)
        self._name = name
        self._mask: Mask | None = None

    @property
    def mask(self) -> Mask:
        """The tokens that may come next, ends among them where the text may end.

        Raises:
            GrammarError: the grammar has become too complex to go on.
        """
        if self._mask is None:
            self._mask = self._computed()
        return self._mask

    @property
    def complete(self) -> bool:
        """Whether nothing can follow, not even an end; GrammarError as for `mask`."""
        return not self.mask.any()

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end the text."""
        return self._ends

    def fork(self) -> Constraint:
        """Return a constraint of the same text, to try how that may go on."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size, self._ends, self._name)

    def advance(self, token: int) -> None:
        """Add a token that the mask allows and that is no end."""
        self._matcher.consume_token(token)
        self._mask = None

    @property
    def certain(self) -> int | None:
        """The only token that may come next, if there is only one and it is no end; else None."""
        (found,) = np.nonzero(self.mask)
        if len(found) != 1:
            return None
        bits = int(self.mask[found[0]])
        token = 8 * int(found[0]) + bits.bit_length() - 1
        return token if bits & (bits - 1) == 0 and token not in self._ends else None

    def fitting(self, ids: Sequence[int]) -> int:
        """Return how many of these ids, from the first on, may come next and are no ends."""
        known = takewhile(lambda one: one < self._vocab_size and one not in self._ends, ids)
        return int(self._matcher.validate_tokens(list(known)))

    def masks(self, ids: Sequence[int]) -> list[Mask]:
        """Return the mask now and after each of these ids, up to where nothing can follow.

        Args:
            ids: all of them fit.

        Raises:
            GrammarError: as for `mask`.
        """
        found, at = [self.mask], 0
        while at < len(ids) and found[-1].any():
            self._matcher.consume_token(ids[at])
            found.append(self._computed())
            at += 1
        self._matcher.rollback(at)
        return found if found[-1].any() else found[:-1]

    def _computed(self) -> Mask:
        """Return the mask of the matcher's state."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8).copy()
        if failure := self._failure():
            raise GrammarError(f"{self._name} cannot go on: {failure}")
        may_end = mask[self._vocab_size // 8] >> self._vocab_size % 8 & 1
        mask[self._vocab_size // 8 :] &= (1 << self._vocab_size % 8) - 1
        if not self._matcher.is_stopped():
            for token in self._ends:
                mask[token // 8] |= may_end << token % 8
        return mask

    def _failure(self) -> str:
        """Return why the matcher failed; "" if it did not."""
        return one_line(self._matcher.get_error())


class Grammar:
    """A grammar that is compiled for the tokens of a model.

    Args:
        matcher: llguidance's, at the beginning of a text.
        vocab_size: of the tokenizer.
        name: for messages.
    """

    def __init__(self, matcher: Any, vocab_size: int, name: str) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._name = name

    def constraint(self, ends: Sequence[int]) -> Constraint:
        """Return the constraint of a new text, which these ids end."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size, ends, self._name)


class Grammars:
    """Compiles grammars for the tokens of a model, in any thread.

    Args:
        tokenizer: of the model; None if it has none.
        model: its path, for messages.
    """

    def __init__(self, tokenizer: Tokenizer | None, model: Path) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._tokens: Any = None
        self._lock = threading.Lock()

    def compile(self, text: GrammarText) -> Grammar:
        """Return a grammar, which several texts may use.

        The first one takes a second or two for a vocabulary of 150,000 tokens, all others some
        milliseconds.

        Raises:
            ConfigError: it is wrong or too complex, no text fits, the model has no tokenizer, or
                llguidance is not installed. The message begins with the name of the grammar.
        """
        if self._tokenizer is None:
            raise ConfigError(f"{text.name} needs a tokenizer, and {self._model} has none")
        try:
            library = import_module("llguidance")
        except ImportError:
            raise ConfigError(
                f"{text.name} needs llguidance: pip install 'dllama[grammar]'"
            ) from None
        with self._lock:
            if self._tokens is None:
                self._tokens = _tokens(library, self._tokenizer)
        limits = library.LLParserLimits(
            verbose_errors=False, initial_lexer_fuel=FUEL, step_max_items=MOST_ITEMS
        )
        try:
            source = KINDS[text.kind](library, text)
            if text.around:
                source = _nested(text.around, source)
            if len(source) > MAX_SOURCE:
                raise ValueError(f"a grammar of {len(source)} characters, at most {MAX_SOURCE}")
            matcher = library.LLMatcher(self._tokens, source, log_level=0, limits=limits)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{text.name}: {one_line(str(error))}") from None
        if reason := one_line(matcher.get_error()):
            raise ConfigError(f"{text.name}: {reason}")
        grammar = Grammar(matcher, self._tokenizer.vocab_size, text.name)
        _refuse_empty(grammar, text.name)
        return grammar


def _refuse_empty(grammar: Grammar, name: str) -> None:
    """Raise ConfigError if a text cannot even begin."""
    try:
        empty = grammar.constraint(()).complete
    except GrammarError as error:
        raise ConfigError(str(error)) from None
    if empty:
        raise ConfigError(f"{name}: no text of the model's tokens fits")


def _schema(library: Any, text: GrammarText) -> str:
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE, "lenient": text.lenient}
    schema = json.loads(text.value) if isinstance(text.value, str) else text.value
    value = json.dumps(closed(bounded(schema)))
    return str(library.LLMatcher.grammar_from_json_schema(value, defaults=options))


def _regex(library: Any, text: GrammarText) -> str:
    return str(library.LLMatcher.grammar_from_regex(_checked(text.value, "a regular expression")))


def _choice(library: Any, text: GrammarText) -> str:
    choices = [text.value] if isinstance(text.value, str) else text.value
    if not isinstance(choices, Sequence) or not choices or not all(choices):
        raise ValueError("expected texts that are not empty")
    lines = (json.dumps(_checked(one, "texts")) for one in choices)
    return str(library.LLMatcher.grammar_from_lark("start: " + " | ".join(lines)))


def _grammar(library: Any, text: GrammarText) -> str:
    return str(library.grammar_from("grammar", _checked(text.value, "a grammar")))


def _lark(library: Any, text: GrammarText) -> str:
    return str(text.value)


def _nested(around: str, source: str) -> str:
    """Return a grammar that calls another one "@text"."""
    whole = json.loads(source)["grammars"][0] if source.startswith('{"grammars"') else None
    text = whole or {"lark_grammar": source}
    return json.dumps({"grammars": [{"lark_grammar": around}, {**text, "name": "text"}]})


# What llguidance makes of each kind.
KINDS: dict[str, Callable[[Any, GrammarText], str]] = {
    "schema": _schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "lark": _lark,
}


def _checked(value: object, expected: str) -> str:
    """Return a value that is valid text; ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"found {type(value).__name__}, expected {expected}")
    value.encode()  # UnicodeEncodeError is a ValueError
    return value


def one_line(text: str) -> str:
    """Return the reason that an error of llguidance gives, in a line."""
    reason = text.partition("\n<")[0]
    if "regex parse error" in reason:
        reason = reason.rpartition("error: ")[2].partition("\n")[0]
    words = " ".join(reason.split())
    return words if len(words) <= MOST_REASON else words[: MOST_REASON - 3] + "..."


class _Spelling:
    """A vocabulary as llguidance reads it. One token is added, which says that a text may end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        count = tokenizer.vocab_size
        self.tokens = [*map(tokenizer.spell, range(count)), b""]
        self.special_token_ids = [*filter(tokenizer.is_special, range(count)), count]
        self.eos_token_id = count
        self.bos_token_id = None
        self.greedy: Callable[[str], list[int]] = lambda text: []
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text that can only go on in one way.

        They are those of the tokenizer, if these spell the text and nothing else. After a line
        break a SentencePiece tokenizer puts no space before a text.
        """
        raw = text.encode()
        for before in ("", "\n"):
            ids = self._tokenizer.encode(before + text, add_bos=False)
            while before and ids and self._spelt(ids) != raw:
                ids = ids[1:]
            if self._spelt(ids) == raw and not any(map(self._tokenizer.is_special, ids)):
                return ids
        return self.greedy(text)

    def _spelt(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)


def _tokens(library: Any, tokenizer: Tokenizer) -> Any:
    """Return the tokens as llguidance takes them."""
    spelling = _Spelling(tokenizer)
    tokens = library.LLTokenizer(library.TokenizerWrapper(spelling))
    spelling.greedy = tokens.greedy_tokenize
    return tokens
