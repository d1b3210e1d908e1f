"""Conversations that later requests can go on with, in memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from dllama.server.http.body import MAX_BODY, MAX_VALUES, Values
from dllama.server.problems import ApiError, shown
from dllama.server.response_format import compact

MAX_BYTES = 64 << 20  # of JSON
Items = list[dict[str, Any]]


class Kept(NamedTuple):
    """A conversation, as JSON: objects of Python could take twenty times the memory.

    Attributes:
        given: the input of the model.
        output: its answer.
        items: ids of the items of the answer.
    """

    given: bytes
    output: bytes
    items: list[str]

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return len(self.given) + len(self.output)


class Store:
    """The conversations of the last responses. The oldest ones make room for new ones.

    Any thread may use it.

    Args:
        limit: bytes that all conversations together may take as JSON.
    """

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._responses: dict[str, str] = {}  # ids by those of items in their answers
        self._lock = threading.Lock()

    def keep(self, name: str, given: Items, output: Items) -> None:
        """Keep a conversation, unless it has more bytes or values than a body may have.

        Args:
            name: id of the response.
            given: the input of the model.
            output: its answer; each item has an id.
        """
        parts = compact(given).encode(), compact(output).encode()
        made = Kept(*parts, [item["id"] for item in output])
        values = Values()
        values.add(made.given)
        if made.size > MAX_BODY or values.count > MAX_VALUES:
            return
        with self._lock:
            self._kept[name] = made
            self._responses |= dict.fromkeys(made.items, name)
            self._size += made.size
            while self._size > self._limit:
                self._forget()

    def conversation(self, name: str) -> Items:
        """Return the conversation up to a response and with it; ApiError 400 if there is none."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                raise _missing("previous_response_id", name, "response")
            self._kept.move_to_end(name)
        return [*json.loads(found.given), *json.loads(found.output)]

    def item(self, name: str, where: str) -> dict[str, Any]:
        """Return an item of an answer; ApiError 400 if there is none."""
        with self._lock:
            found = self._kept.get(self._responses.get(name, ""))
        if found is None:
            raise _missing(where, name, "item")
        items: Items = json.loads(found.output)
        return items[found.items.index(name)]

    def _forget(self) -> None:
        """Forget the conversation that was not used for the longest time."""
        _, old = self._kept.popitem(last=False)
        self._size -= old.size
        for item in old.items:
            del self._responses[item]


def _missing(where: str, name: str, kind: str) -> ApiError:
    message = f"{where} is {shown(name)}: this server does not keep such {kind}, or no longer"
    return ApiError(400, message, param=where, code="previous_response_not_found")
