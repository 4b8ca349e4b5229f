"""A WSGI application around an encoder, as a service has it: opened where the module is imported."""

from __future__ import annotations

import os

from support.exercise import exercise, opened

encoder = opened(os.environ["BUNDLE"], warm=True)


def app(_environ, start_response):
    body = f"{os.getpid()} {exercise(encoder)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
