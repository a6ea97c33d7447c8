"""What goes wrong on the way to an answer, in the shape of OpenAI's errors."""

import json
from typing import Any

from starlette.responses import Response

from vlv.text import printable

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_RETRY_SECONDS = {429: "1", 503: "5"}


class ApiError(Exception):
    """An answer that is no result; `code` is short and stable, for programs to go by."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        # It may quote a name out of a request, a file or a model.
        self.message = printable(message)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "code", "param"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "code": self.code,
                "param": self.param,
            }
        }

    def response(self) -> Response:
        """The body with its status, and when to come again where that helps."""
        headers = {}
        if self.status in _RETRY_SECONDS:
            headers["Retry-After"] = _RETRY_SECONDS[self.status]
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(self.body()), self.status, headers, "application/json")
