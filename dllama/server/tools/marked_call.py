"""Texts with calls that begin with a marker."""

from __future__ import annotations

from abc import abstractmethod

from dllama.server.tools.base import CallParser, Content


class MarkedCalls(CallParser):
    """A parser of text, and of calls that begin with a marker.

    Spaces beside calls are no part of the text.

    Attributes:
        opens: the markers with which a call may begin.
    """

    opens: tuple[str, ...]
    _spaces = ""  # before what comes next
    _called = False

    @abstractmethod
    def opened(self, marker: str) -> None:
        """Read a call next, whose marker was taken; then call `closed` or `was_none`."""

    def first(self) -> bool:
        """Take text up to a call."""
        text, marker = self.before(self.opens)
        kept = len(text.rstrip())
        if kept:
            self.give(Content(self._spaces + text[:kept]))
            self._spaces = ""
        self._spaces += text[kept:]
        if marker:
            self.opened(marker)
        elif self.ended and not self._called:
            self.give(Content(self._spaces))
            self._spaces = ""
        return marker is not None

    def closed(self) -> None:
        """Go on after a call."""
        self._called = True
        self._spaces, self._step = "", self._skip

    def was_none(self, marker: str) -> None:
        """Go on after a marker that was text, as is what comes after it."""
        self.give(Content(self._spaces + marker))
        self._spaces, self._step = "", self.first

    def close_with(self, marker: str) -> bool:
        """Take spaces and the marker that closes a call, if it is there; as `step`."""
        self.held = self.held.lstrip()
        if self.may_begin(marker):
            return False
        if self.held.startswith(marker):
            self.take(len(marker))
        self.closed()
        return True

    def _skip(self) -> bool:
        """Take the spaces after a call."""
        self.held = self.held.lstrip()
        if self.held:
            self._step = self.first
        return bool(self.held)
