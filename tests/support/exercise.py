"""The same work in every kind of worker; imports no torch, so that processes start quickly."""

from __future__ import annotations

import hashlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor

from support.images import photo

TEXTS = ["a red square on a table", "two blue circles", "", "a very " + "long " * 40 + "caption"]


def exercise(encoder) -> str:
    """Images in several forms, a stream, texts, ranking and errors; a digest of all that came out."""
    digest = hashlib.sha256()
    images = [photo(w, 30, seed=w) for w in (40, 7, 200, 33)]
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG")
    for made in (
        encoder.encode_images([*images, buffer.getvalue()]),
        encoder.encode_texts(TEXTS),
        encoder.rank(images[0], TEXTS),
        *(part.embeddings for part in encoder.iter_encode_images(iter(images), batch_size=2)),
    ):
        digest.update(made.round(4).tobytes())
    skipped = encoder.encode_images([images[0], b"broken"], errors="skip")
    digest.update(repr(skipped.failures).encode())
    return digest.hexdigest()


def exercise_in_threads(encoder, threads: int = 4) -> str:
    """All threads at once; they agree."""
    with ThreadPoolExecutor(threads) as pool:
        found = set(pool.map(lambda _: exercise(encoder), range(2 * threads)))
    assert len(found) == 1, found
    return found.pop()


def opened(bundle: str, **options):
    from icclip.runtime import Encoder

    return Encoder.open(bundle, provider="cpu", threads=2, **options)


if __name__ == "__main__":
    sys.stdout.write(exercise(opened(sys.argv[1])))
