"""What becomes known of a request while it is answered, for the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.types import Scope

from dllama.scheduling.generation import Generation
from dllama.server.problems import ApiError


@dataclass(eq=False)
class Exchange:
    """A request and its response. The dispatcher's thread notes what its texts cost.

    Times are those of time.monotonic.

    Attributes:
        since: when it came.
        error: why it is refused, or why its texts end.
        prompt, cached, generated: tokens of all its texts.
        begun: when the turn of its first text came.
        first, last: when the first and the last token came.
    """

    since: float = field(default_factory=time.monotonic)
    error: ApiError | None = None
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    begun: float | None = None
    first: float | None = None
    last: float | None = None

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """Return that of a request, which the first who asks makes."""
        found: Exchange = scope.setdefault("state", {}).setdefault("exchange", cls())
        return found

    def begin(self, now: float) -> None:
        """Note that the turn of a text has come."""
        self.begun = now if self.begun is None else self.begun

    def read(self, text: Generation) -> None:
        """Note that the prompt of a text is evaluated."""
        self.prompt += text.prompt
        self.cached += text.cached

    def take(self, now: float) -> None:
        """Note a token of a text that was just taken."""
        self.first = now if self.first is None else self.first
        self.last = now
        self.generated += 1

    @property
    def costs(self) -> list[str]:
        """What it took, in words."""
        found = []
        if self.prompt:
            found += [f"{self.prompt} prompt tokens ({self.cached} cached)"]
        if self.generated:
            found += [f"{self.generated} generated"]
        if self.begun is not None:
            found += [f"queue {self.begun - self.since:.2f} s"]
        if self.first is not None and self.last is not None:
            found += [f"first token {self.first - self.since:.2f} s"]
            if self.last > self.first:
                found += [f"{(self.generated - 1) / (self.last - self.first):.1f} tokens/s"]
        return found
