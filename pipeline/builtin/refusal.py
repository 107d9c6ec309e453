"""The 400 (or 404) that a request deserves."""

from __future__ import annotations


class BadRequest(Exception):
    """The request deserves a 400 (or 404). code, param: as OpenAI names them."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        }
