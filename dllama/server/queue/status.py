"""What a server is doing, and what those who ask too early have to wait for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class State(Enum):
    """State of the dispatcher."""

    LOADING = "loading"
    READY = "ok"
    LOST = "unavailable"  # a worker is lost
    STOPPING = "stopping"


@dataclass
class Status:
    """The state, and what is known about it. Any thread may read it.

    Attributes:
        state: the state.
        doing: what is being done to open the model; "" if nothing is.
        share: how much of that is done, from 0 to 1.
        lost: the error by which the model was lost, or why it cannot be opened again.
    """

    state: State = State.LOADING
    doing: str = ""
    share: float = 0.0
    lost: str = ""

    def report(self, doing: str, share: float) -> None:
        """Note how far the model is opened (progress.Report)."""
        self.doing, self.share = doing, share

    @property
    def reason(self) -> str:
        """Why there is no model now."""
        reasons = {State.LOADING: "the model is being loaded", State.READY: "",
                   State.STOPPING: "the server is stopping"}  # fmt: skip
        return reasons.get(self.state, "a worker of the cluster is lost, waiting for it")

    def as_json(self, details: bool) -> dict[str, Any]:
        """Return what /ready says.

        Args:
            details: whether to name the worker that is lost.
        """
        found: dict[str, Any] = {"status": self.state.value}
        if self.state is State.READY:
            return found
        found["reason"] = self.reason
        if self.state is State.LOST and details:
            found["lost"] = self.lost
        if self.doing and self.state in (State.LOADING, State.LOST):
            found |= {"doing": self.doing, "percent": int(100 * self.share)}
        return found
