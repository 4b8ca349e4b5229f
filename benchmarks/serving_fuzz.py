"""Hostile bodies for `icclip serve`: no 500, no crash, and memory that stays where it was.

    python -m benchmarks.serving_fuzz BUNDLE --index INDEX [--bodies 10000]

A third of the bodies is made by schemathesis from the OpenAPI schema, valid and not; the others are broken on purpose: base64, images,
bombs, types, depth, encodings. All go through the whole application in one process.
"""

from __future__ import annotations

import argparse
import base64
import collections
import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks.support.timing import environment, write

ROUTES = ("/invocations", "/v1/embeddings", "/search")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(rng: random.Random) -> bytes:
    """A PNG that promises more pixels than it has."""
    size = rng.choice([1, 5_000, 9_000, 40_000, 2**31 - 1])
    header = struct.pack(">IIBBBBB", size, rng.choice([1, size]), 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def picture(rng: random.Random) -> bytes:
    """An image file, whole, cut off, with flipped bytes, a bomb, or noise."""
    buffer = io.BytesIO()
    image = Image.new(rng.choice(["RGB", "L", "RGBA"]), (rng.randint(1, 60), rng.randint(1, 60)), rng.randint(0, 255))
    image.save(
        buffer,
        rng.choice(["PNG", "GIF", "TIFF", "WEBP"]) if image.mode != "RGB" else rng.choice(["JPEG", "PNG", "BMP"]),
    )
    content = bytearray(buffer.getvalue())
    what = rng.choice(["whole", "cut", "flipped", "bomb", "noise"])
    if what == "cut":
        return bytes(content[: rng.randint(0, len(content))])
    if what == "flipped":
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if what == "bomb":
        return bomb(rng)
    return rng.randbytes(rng.randint(0, 300)) if what == "noise" else bytes(content)


def text(rng: random.Random) -> Any:
    return rng.choice(
        [
            "a dog",
            "",
            "\0",
            "\u202e",
            "x" * rng.choice([1, 100, 20_000]),
            "🦊" * 9,
            "http://127.0.0.1/x",
            "/etc/passwd",
            1,
            None,
            [],
            {},
            True,
            -1e300,
        ]
    )


def image_value(rng: random.Random) -> Any:
    encoded = base64.b64encode(picture(rng)).decode()
    return rng.choice(
        [encoded, encoded, f"data:image/png;base64,{encoded}", encoded[1:], encoded + "=", "é" + encoded, text(rng)]
    )


def body(rng: random.Random, route: str) -> Any:
    """An object whose fields are each as likely wrong as right."""
    makers: dict[str, Callable[[], Any]] = {
        "task": lambda: rng.choice(["rank", "encode_image", "encode_text", text(rng)]),
        "image_b64": lambda: image_value(rng),
        "texts": lambda: rng.choice([[text(rng) for _ in range(rng.randint(0, 5))], ["a"] * 300, ["a dog"], text(rng)]),
        "top_k": lambda: rng.choice([1, 5, 0, -1, 10**30, 1.5, "5", None]),
        "input": lambda: rng.choice([text(rng), [text(rng) for _ in range(3)], [image_value(rng), "a dog"]]),
        "encoding_format": lambda: rng.choice(["float", "base64", text(rng)]),
        "dimensions": lambda: rng.choice([None, 3, -1, 10**40]),
        "text": lambda: text(rng),
        "minus": lambda: text(rng),
        "like": lambda: rng.choice([0, 5, -1, 10**9, 10**30, None, "1"]),
        "k": lambda: rng.choice([1, 3, 1000, 0, 10**9, "3"]),
        "filter": lambda: rng.choice(
            [
                "width > 3",
                "width >",
                "a == 1",
                "(" * 300,
                "open('x')",
                "width == 'a'",
                "contains(captions, 'a')",
                text(rng),
            ]
        ),
        "thumbnails": lambda: rng.choice([True, False, 1, "true"]),
        "extra": lambda: text(rng),
    }
    own = {
        "/invocations": ("task", "image_b64", "texts", "top_k"),
        "/v1/embeddings": ("input", "encoding_format", "dimensions"),
        "/search": ("text", "image_b64", "minus", "like", "k", "filter", "thumbnails"),
    }[route]
    return {name: makers[name]() for name in (*own, "extra") if rng.random() < (0.05 if name == "extra" else 0.6)}


def raw(rng: random.Random, route: str) -> bytes:
    """A body, mostly JSON."""
    content = json.dumps(body(rng, route)).encode()
    what = rng.random()
    if what < 0.05:  # noqa: PLR2004 # shares of the bodies
        return content[: rng.randint(0, len(content))]
    if what < 0.08:  # noqa: PLR2004
        return rng.choice(
            [
                b"",
                b"null",
                b"[]",
                b"\xff\xfe",
                b"[" * 50_000,
                b'{"a":' * 20_000,
                b"NaN",
                b'"\\ud800"',
                b'{"text": "\\ud800"}',
            ]
        )
    return content


def from_schema(app: Any, count: int) -> list[tuple[str, bytes]]:
    """What schemathesis makes of the schema of each route."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    made: list[tuple[str, bytes]] = []
    few = settings(
        max_examples=count // len(ROUTES), database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    def collector(route: str) -> Callable[[], None]:
        @few
        @given(case=schema[route]["POST"].as_strategy())
        def collect(case: Any) -> None:
            made.append((route, json.dumps(case.body, default=str).encode()))

        return collect

    for route in ROUTES:
        collector(route)()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    from starlette.testclient import TestClient

    from icclip.config.serving import ServeConfig
    from icclip.console import Reporter
    from icclip.serving.app import application
    from icclip.serving.run import open_service

    given = {"encoder": {"checkpoint": str(asked.bundle)}, "index": asked.index and str(asked.index)}
    service = open_service(ServeConfig.from_mapping(given), Reporter(silent=True))
    app, rng = application(service), random.Random(asked.seed)
    statuses: collections.Counter[int] = collections.Counter()
    memory = []
    began = time.perf_counter()
    with TestClient(app, raise_server_exceptions=False) as client:
        bodies = from_schema(app, asked.bodies // 3)
        while len(bodies) < asked.bodies:
            route = rng.choice(ROUTES)
            bodies.append((route, raw(rng, route)))
        rng.shuffle(bodies)
        for place, (route, content) in enumerate(bodies):
            answer = client.post(route, content=content, headers={"Content-Type": "application/json"})
            statuses[answer.status_code] += 1
            if answer.status_code >= 500:  # noqa: PLR2004 # a fault of ours
                print(route, content[:300], answer.text)
            if place % 500 == 499:  # noqa: PLR2004
                memory.append(round(psutil.Process().memory_info().rss / 2**20, 1))
        assert client.post("/search" if asked.index else "/invocations", json={"text": "a dog"}).status_code in (
            200,
            422,
        )
    result = {
        "bodies": asked.bodies, "seconds": round(time.perf_counter() - began, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())}, "memory_mb": memory, "environment": environment(),
    }  # fmt: skip
    write(__file__, result)
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=2))


if __name__ == "__main__":
    main()
