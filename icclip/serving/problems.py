"""What can be wrong with a request: each has a status, a type, and the field that it is about."""

from __future__ import annotations


class RequestProblem(Exception):  # noqa: N818 # it is answered, not raised to the top
    """Answered as `{"error": {"type", "message", "field", "request_id"}}`.

    Args:
        status: of HTTP.
        kind: one word for programs.
        message: one line for people.
        field: of the request's JSON, such as `texts.3`.
        headers: such as Retry-After.
    """

    def __init__(
        self, status: int, kind: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.status, self.kind, self.message, self.field = status, kind, message, field
        self.headers = headers or {}
        super().__init__(message)

    def body(self, request_id: str) -> dict[str, object]:
        """The JSON that is answered."""
        return {"error": {"type": self.kind, "message": self.message, "field": self.field, "request_id": request_id}}


def invalid(message: str, field: str | None) -> RequestProblem:
    """422: a field cannot be used."""
    return RequestProblem(422, "invalid_request", message, field)


def too_large(message: str, field: str | None) -> RequestProblem:
    """413: more than one request may ask for."""
    return RequestProblem(413, "too_large", message, field)


def busy(seconds: int) -> RequestProblem:
    """429: the queue is full."""
    return RequestProblem(
        429, "busy", f"too many requests are waiting: try again in {seconds} s", None, {"Retry-After": str(seconds)}
    )
