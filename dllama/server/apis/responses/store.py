"""Conversations that later requests can go on with, in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from dllama.server.problems import ApiError, shown
from dllama.server.responses import compact

MAX_BYTES = 64 << 20  # of JSON
Items = list[dict[str, Any]]


class Store:
    """The conversations of the last responses. The oldest ones make room for new ones.

    `conversation` and `item` may be called in any thread.

    Args:
        limit: bytes that all conversations together may take as JSON.
    """

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, tuple[int, Items, Items]] = OrderedDict()
        self._outputs: dict[str, dict[str, Any]] = {}

    def keep(self, name: str, given: Items, output: Items) -> None:
        """Keep a conversation.

        Args:
            name: id of the response.
            given: the input of the model.
            output: its answer; each item has an id.
        """
        size = len(compact([given, output]))
        self._kept[name] = (size, given, output)
        self._outputs |= {item["id"]: item for item in output}
        self._size += size
        while self._size > self._limit:
            self._forget()

    def conversation(self, name: str) -> Items:
        """Return the conversation up to a response and with it; ApiError 400 if there is none."""
        try:
            self._kept.move_to_end(name)
            _, given, output = self._kept[name]
        except KeyError:
            raise _missing("previous_response_id", name, "response") from None
        return [*given, *output]

    def item(self, name: str, where: str) -> dict[str, Any]:
        """Return an item of an answer; ApiError 400 if there is none."""
        found = self._outputs.get(name)
        if found is None:
            raise _missing(where, name, "item")
        return found

    def _forget(self) -> None:
        """Forget the conversation that was not used for the longest time."""
        _, (size, _, output) = self._kept.popitem(last=False)
        self._size -= size
        for item in output:
            del self._outputs[item["id"]]


def _missing(where: str, name: str, kind: str) -> ApiError:
    message = f"{where} is {shown(name)}: this server does not keep such {kind}, or no longer"
    return ApiError(400, message, param=where, code="previous_response_not_found")
