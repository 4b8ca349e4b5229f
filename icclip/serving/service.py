"""The work behind the routes: encoders in threads, batches across requests, readiness by golden inputs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from icclip.bundles.golden import read_golden
from icclip.config.serving import ServeConfig
from icclip.data.images import decode_image
from icclip.errors import CheckpointError, UsageError
from icclip.runtime import Encoder
from icclip.searching.opening import OpenIndex, check_golden_vectors
from icclip.searching.query import Hit, Query, combined, find, like
from icclip.serving.batching import Batcher, first_problem
from icclip.serving.inputs import Inputs, Picture, Text, unreadable
from icclip.serving.metrics import Metrics
from icclip.serving.problems import RequestProblem, invalid
from icclip.serving.schema import SearchRequest

T = TypeVar("T")
LOWEST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
"""Precision -> what a golden input has to have in common with the checkpoint's embedding."""


@dataclass
class Service:
    """One bundle, and perhaps an index, as a service.

    Args:
        config: limits and batches.
        encoder: the bundle, open.
        index: an index of the same bundle.
    """

    config: ServeConfig
    encoder: Encoder
    index: OpenIndex | None = None
    metrics: Metrics = field(default_factory=Metrics)
    ready: bool = False
    failure: str = ""
    """Why it will never be ready."""

    @cached_property
    def inputs(self) -> Inputs:
        """The limits."""
        return Inputs(self.config)

    @cached_property
    def texts(self) -> Batcher:
        """The text tower."""
        return self._batcher("text", self._encode_texts)

    @cached_property
    def images(self) -> Batcher:
        """The vision tower."""
        return self._batcher("vision", self._encode_images)

    @cached_property
    def searches(self) -> ThreadPoolExecutor:
        """Where the index is searched."""
        return ThreadPoolExecutor(2)

    def _batcher(self, tower: str, work: Any) -> Batcher:
        config = self.config
        batcher = Batcher(work, config.max_batch, config.batch_wait / 1000, config.max_queue, self.metrics.batch(tower))
        self.metrics.watch(tower, lambda: batcher.waiting)
        return batcher

    # Its life

    def prove(self) -> None:
        """Encode the golden inputs of the bundle, and of the index, again; only then it is ready.

        Raises:
            CheckpointError: they are not what they were.
        """
        golden = read_golden(self.encoder.bundle)
        needed = LOWEST_COSINE.get(self.encoder.precision, 0.99)
        decoded = [decode_image(path, path.name) for path in golden.images]
        pairs = (
            ("images", self.encoder.encode_images(decoded, batch_size=1), golden.image_embeddings),
            ("texts", self.encoder.encode_texts(golden.texts, batch_size=1), golden.text_embeddings),
        )
        for what, now, then in pairs:
            lowest = float(np.einsum("nd,nd->n", now, then).min()) if now.shape == then.shape else -1.0
            if lowest < needed:
                raise CheckpointError(
                    f"{self.encoder.bundle}: the golden {what} are encoded differently here than by the checkpoint (lowest "
                    f"cosine {lowest:.5f}, needs {needed}): run `icclip verify`"
                )
        if self.index is not None:
            check_golden_vectors(self.index, self.encoder)
            _ = self.index.items, self.index.engine
        self.ready = True

    async def close(self) -> None:
        """End after what has been accepted."""
        await asyncio.gather(self.texts.close(), self.images.close())
        self.searches.shutdown(wait=False)

    # The work, in threads

    def _encode_texts(self, texts: Sequence[Text]) -> list[Any]:
        return list(self.encoder.encode_texts([text.value for text in texts]))

    def _encode_images(self, pictures: Sequence[Picture]) -> list[Any]:
        made = self.encoder.encode_images([picture.content for picture in pictures], errors="null")
        outcomes: list[Any] = list(made.embeddings)
        for failure in made.failures:
            outcomes[failure.row] = unreadable(failure.reason, pictures[failure.row].field)
        return outcomes

    # What routes ask for

    async def within(self, work: Awaitable[T]) -> T:
        """The work, or 504 where it takes too long."""
        try:
            return await asyncio.wait_for(work, self.config.timeout)
        except TimeoutError as error:
            raise RequestProblem(504, "timeout", f"the request took longer than {self.config.timeout:g} s") from error

    async def vectors(self, inputs: Sequence[Text | Picture]) -> list[np.ndarray]:
        """A unit vector for each input, in their order; raises RequestProblem for one that cannot be encoded."""
        texts = [one for one in inputs if isinstance(one, Text)]
        pictures = [one for one in inputs if isinstance(one, Picture)]
        made = await asyncio.gather(self.texts.run(texts), self.images.run(pictures))
        for outcomes in made:
            first_problem(outcomes)
        of_text, of_picture = map(iter, made)
        return [next(of_text) if isinstance(one, Text) else next(of_picture) for one in inputs]

    async def search(self, request: SearchRequest) -> tuple[list[Hit], list[bytes | None], float]:
        """Hits, their thumbnails where they are asked for, and the seconds that it took."""
        if self.index is None:
            raise RequestProblem(404, "no_index", "this service has no index: start it with --index INDEX")
        began = time.perf_counter()
        query = None if request.like is not None else await self._query(request)
        loop = asyncio.get_running_loop()
        hits, pictures = await loop.run_in_executor(self.searches, self._found, self.index, request, query)
        return hits, pictures, time.perf_counter() - began

    async def _query(self, request: SearchRequest) -> Query:
        plus: list[Text | Picture] = []
        if request.text:
            plus.append(self.inputs.text(request.text, "text"))
        if request.image_b64:
            plus.append(self.inputs.picture(request.image_b64, "image_b64"))
        if not plus:
            raise invalid("give text, image_b64 or like", "text")
        minus = [self.inputs.text(request.minus, "minus")] if request.minus else []
        made = await self.vectors([*plus, *minus])
        try:
            return combined(made[: len(plus)], made[len(plus) :], scored=not request.image_b64)
        except UsageError as error:
            raise invalid(str(error), "minus") from error

    def _found(
        self, index: OpenIndex, request: SearchRequest, query: Query | None
    ) -> tuple[list[Hit], list[bytes | None]]:
        if request.like is not None and request.like >= index.record.items:
            raise invalid(f"like is {request.like}, but the index has {index.record.items:,} items", "like")
        try:
            hits = (
                like(index, request.like or 0, request.k, request.filter)
                if query is None
                else find(index, query, request.k, request.filter)
            )
        except UsageError as error:
            raise invalid(str(error), "filter") from error
        shown = [dataclasses.replace(hit, item=_plain(hit.item)) for hit in hits]
        if not request.thumbnails or not hits:
            return shown, [None] * len(hits)
        return shown, [one["thumbnail"] for one in index.items.take([hit.row for hit in hits], ["thumbnail"])]


def _plain(item: Any) -> dict[str, Any]:
    """Values that JSON has; columns of other types as text."""
    return dict(json.loads(json.dumps(dict(item), default=str)))
