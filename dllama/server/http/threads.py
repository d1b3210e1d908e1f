"""Work on requests that may take long, in threads.

Long requests take turns: each may need much memory, and together they would take all threads, so
that short requests waited too. They wait here without a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from dllama.server.problems import ApiError

LONG = 1 << 16  # bytes of a body
MOST_WAITING = 16
T = TypeVar("T")


def turns() -> CapacityLimiter:
    """Create what an application keeps as `state.turns`."""
    return CapacityLimiter(1)


async def in_thread(request: Request, function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread.

    Raises:
        ApiError: 429: too many long requests wait.
    """
    limiter = None
    if getattr(request.state, "length", 0) > LONG:
        limiter = request.app.state.turns
        if limiter.statistics().tasks_waiting >= MOST_WAITING:
            message = f"{MOST_WAITING} long requests are waiting already, try again later"
            raise ApiError(429, message, code="queue_full", retry_after=5)
    return await to_thread.run_sync(partial(function, *args), limiter=limiter)
