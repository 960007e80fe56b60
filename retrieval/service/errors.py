"""Errors as clients of OpenAI's interface read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


LONGEST = 1000  # characters of a message; what a client sent may be part of it


class ApiError(Exception):
    """What a client gets instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        message = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the JSON of it."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(seconds: int, message: str) -> ApiError:
    """Return the error of a service that has all it can do."""
    return ApiError(429, message, code="busy", headers={"Retry-After": str(seconds)})


def not_ready(message: str) -> ApiError:
    """Return the error of a service whose model is being started."""
    return ApiError(503, message, code="not_ready", headers={"Retry-After": "2"})
