"""What generation yields: tokens, and text that ends at a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dllama.errors import ConfigError
from dllama.text.tokenizer import Tokenizer


class End(Enum):
    """Why a generated text ended."""

    EOS = "eos"  # the model generated an end-of-text token
    STOP = "stop"  # a stop string came next
    COMPLETE = "complete"  # its grammar allows nothing more
    LENGTH = "length"  # max_tokens were generated, or the context is full
    INTERRUPT = "interrupt"


@dataclass(frozen=True)
class Token:
    """A token and the text that it completes.

    The text may be empty, when the token ends in the middle of a character or may begin a stop
    string. It then comes with a later token. The texts of all tokens joined are the generated text.

    Attributes:
        id: token id.
        text: text that became certain with this token.
        logprob: natural logarithm of the token's probability under the model alone, without
            temperature, penalty or filters. None unless requested, and for the first of a text.
        top: (id, logprob) of the most likely tokens, best first.
        end: why the text ends with this token; None if it goes on.
        stop: the stop string that came next, if one did.
        given: whether it is one of the prompt and not generated; it has no text then.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    end: End | None = None
    stop: str | None = None
    given: bool = False


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; ConfigError for one that is empty or no text."""
    if stop is None:
        return ()
    stops = tuple(stop) if isinstance(stop, Sequence) and not isinstance(stop, str) else (stop,)
    if any(not isinstance(text, str) or not text for text in stops):
        raise ConfigError(f"stop is {stop!r}, expected strings that are not empty")
    return stops


class TextStream:
    """Turns ids into text as they are generated, up to the first stop string.

    Args:
        tokenizer: None makes every text empty.
        stops: strings that end the text; they are not part of it.
        special: ids of special tokens that add their names to the text. Others add nothing.
        least: no stop string counts that begins in so many of the first tokens.

    Attributes:
        found: the stop string that was found; None before that.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        stops: Sequence[str],
        special: Sequence[int] = (),
        least: int = 0,
    ) -> None:
        self.found: str | None = None
        names = {} if tokenizer is None else {token: tokenizer.name(token) for token in special}
        self._names = names
        self._decoder = tokenizer.stream() if tokenizer is not None else None
        self._stops = tuple(stops)
        self._free = least  # tokens that are not searched
        self._held = ""

    def push(self, token: int) -> str:
        """Add an id and return the text that is now certain."""
        if self._decoder is None:
            return ""
        if token in self._names:
            self._held += self._decoder.flush() + self._names[token]
        else:
            self._held += self._decoder.push(token)
        if self._free:
            self._free -= 1
            text, self._held = self._held, ""
            return text
        return self._release(self._open_length())

    def flush(self) -> str:
        """Return the rest of the text. Push nothing afterwards."""
        if self._decoder is None or self.found:
            return ""
        self._held += self._decoder.flush()
        return self._release(0)

    def _release(self, keep: int) -> str:
        """Return all but the last `keep` characters, or the text before a stop string."""
        ends = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            cut, self.found = min(ends)
        else:
            cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _open_length(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
