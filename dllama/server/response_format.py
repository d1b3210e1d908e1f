"""What every API has to say of its responses: the objects, and how a stream frames them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama import Token
from dllama.server.problems import ApiError
from dllama.server.queue.jobs import Done, Place


class ResponseFormat(ABC):
    """Builds what a response says of a text, as a whole or as the objects of a stream.

    A request for several texts has a format for each. The first one builds what they share.

    Attributes:
        media_type: of a stream.
    """

    media_type = "text/event-stream; charset=utf-8"

    @abstractmethod
    def whole(self, tokens: Sequence[Token], done: Done) -> dict[str, Any]:
        """Return a response that is not streamed."""

    def merged(self, parts: Sequence[dict[str, Any]], ends: Sequence[Done]) -> dict[str, Any]:
        """Return a response that is not streamed, of several texts.

        Args:
            parts: the responses of one text each.
            ends: of all jobs, also of those whose texts are not returned.
        """
        (part,) = parts
        return part

    @abstractmethod
    def opening(self) -> list[dict[str, Any]]:
        """Return the first objects of a text in a stream."""

    @abstractmethod
    def piece(self, token: Token) -> list[dict[str, Any]]:
        """Return what a token adds to a stream, which may be nothing."""

    @abstractmethod
    def closing(self, done: Done) -> list[dict[str, Any]]:
        """Return the last objects of a text in a stream."""

    def summary(self, ends: Sequence[Done]) -> list[dict[str, Any]]:
        """Return the objects of a stream that come after all texts, from the ends of all jobs."""
        return []

    def wait(self) -> str:
        """Return what a stream sends at its beginning, and whenever it had nothing for a while.

        It tells nothing new, but some clients give up on a stream without it.
        """
        return ": waiting\n\n"

    def place(self, place: Place) -> str:
        """Return what a stream sends when its place in the queue changes; clients ignore it."""
        return ": started\n\n" if place.before is None else f": waiting {place.before}\n\n"

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return an error, of a stream or of a whole response."""
        return error.as_json()

    def frame(self, value: dict[str, Any]) -> str:
        """Return an object as the stream sends it."""
        return f"data: {compact(value)}\n\n"

    def end(self) -> str:
        """Return what a complete stream sends after the last object."""
        return ""


def compact(value: object) -> str:
    """Return JSON without spaces, on one line."""
    return json.dumps(value, separators=(",", ":"))
