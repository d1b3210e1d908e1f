"""Errors that clients see, in OpenAI's format."""

from __future__ import annotations

from typing import Any

from dllama import checks
from dllama.errors import DllamaError

# OpenAI's error `type` for an HTTP status; all others are invalid_request_error.
TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(DllamaError):
    """An error that is reported to the client.

    Args:
        status: HTTP status.
        message: text for people.
        param: the field of the request that is wrong.
        code: short name that programs can check.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def as_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {
            "error": {
                "message": str(self),
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return extra headers of the response."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def shown(value: object) -> str:
    """Format a value from a request for a message: short, and pure ASCII."""
    text = checks.shown(value, 81).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
