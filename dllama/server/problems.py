"""What a client is told when a request cannot be answered, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from dllama.errors import DllamaError

# OpenAI's `type` of an error by HTTP status; the others are invalid_request_error.
TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(DllamaError):
    """The answer to a request that failed.

    status: of HTTP. param: the field of the request that is to blame. code: a word that programs
    can compare. retry_after: seconds after which to try again.
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
        """The body of the answer."""
        return {
            "error": {
                "message": str(self),
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def shown(value: object) -> str:
    """A value of a request as messages show it: short, and without half characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
