"""What generation yields: tokens, and text that is cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dllama.text.tokenizer import Tokenizer


class End(Enum):
    """Why a text ends."""

    EOS = "eos"  # with an id that ends it
    STOP = "stop"  # before a stop string
    LENGTH = "length"  # after max_tokens, or where the context is full
    INTERRUPT = "interrupt"


@dataclass(frozen=True)
class Token:
    """A generated token: its id, and the text that became certain with it.

    The text may be empty (an incomplete character, the beginning of a stop string) and may
    hold what earlier tokens left open; all texts joined are the generated text.

    logprob: natural logarithm of its probability by the model alone, without temperature, penalty
    and filters; None where it was not asked for. top: ids and logprobs of the likeliest tokens.
    end: why the text ends with this token, if it does.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    end: End | None = None


class TextStream:
    """Turns ids into text as they come, up to the first stop string.

    Without a tokenizer all text is empty. `stopped` is true once a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        self.stopped = False
        self._decoder = tokenizer.stream() if tokenizer is not None else None
        self._stops = tuple(stops)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more token."""
        if self._decoder is None:
            return ""
        self._held += self._decoder.push(token)
        return self._release(self._open_length())

    def flush(self) -> str:
        """The rest of the text; nothing may be pushed after it."""
        if self._decoder is None or self.stopped:
            return ""
        self._held += self._decoder.flush()
        return self._release(0)

    def _release(self, keep: int) -> str:
        """All but the last `keep` characters, or what stands before a stop string."""
        ends = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped = True
        cut = min(ends) if ends else len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _open_length(self) -> int:
        """Length of the longest end of the text that a stop string may begin with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
