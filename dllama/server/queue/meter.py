"""How many tokens per second the model generates now."""

from __future__ import annotations

import threading
import time
from collections import deque

WINDOW = 4.0  # seconds


class Meter:
    """Counts tokens; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque()  # of the tokens in the window

    def add(self, now: float) -> None:
        """Count a token (time.monotonic)."""
        with self._lock:
            self._times.append(now)
            self._forget(now)

    def rate(self, now: float | None = None) -> float:
        """Return tokens per second in the window, or since its first token; 0 without any."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._forget(now)
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / max(now - self._times[0], 1e-3)

    def _forget(self, now: float) -> None:
        """Drop the tokens before the window."""
        while self._times and self._times[0] < now - WINDOW:
            self._times.popleft()
