"""The seed project's four handlers, for containers that call them: thin functions over a bundle or a checkpoint.

`icclip serve` in a container of its own is the better way; see the plugin's Dockerfile. A bundle runs under
onnxruntime without torch, a checkpoint in PyTorch; whichever the model directory holds is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.manifest import is_bundle
from icclip.config import EncoderConfig, ServeConfig
from icclip.errors import DataError
from icclip.runtime.scoring import Scale, probabilities
from icclip.serving.inputs import Inputs, unreadable
from icclip.serving.problems import RequestProblem

if TYPE_CHECKING:
    from PIL.Image import Image

    from icclip.plugins.specs import Encoder

JSON = "application/json"
BUNDLE = "bundle"
"""The folder of a model directory that may hold a bundle."""
TASKS = ("rank", "encode_image", "encode_text")
MAX_BODY = 16 << 20
"""Bytes of a request; a photo of 8 megapixels takes 2 to 4 million."""
INPUTS = Inputs(ServeConfig(encoder=EncoderConfig(checkpoint=BUNDLE), max_inputs=1000))
"""Checks images and texts as `icclip serve` does, within the same limits."""
BAD_REQUEST, UNSUPPORTED, TOO_LARGE = 400, 415, 413


class RequestError(DataError, ValueError):
    """A request that cannot be answered; the message names the field.

    Args:
        message: what is wrong, where, and what to send instead.
        status: the HTTP status that a container should answer with.
    """

    def __init__(self, message: str, status: int = BAD_REQUEST) -> None:
        super().__init__(message)
        self.status_code = self.status = status


@dataclass(frozen=True, slots=True)
class Model:
    """What `model_fn` gives to `predict_fn`."""

    encoder: Encoder
    scale: Scale


@dataclass(frozen=True, slots=True)
class _TorchScale:
    loss: Any
    logit_scale: float
    logit_bias: float | None


def model_fn(model_dir: str, _context: Any = None) -> Model:
    """Open what is in `/opt/ml/model`: a bundle there or in `bundle/`, or else a checkpoint.

    Raises:
        CheckpointError: neither is there, or it is damaged.
    """
    directory = Path(model_dir)
    for place in (directory, directory / BUNDLE):
        if is_bundle(place):
            from icclip.runtime import Encoder as Runtime

            runtime = Runtime.open(place)
            return Model(runtime, runtime.manifest)
    return _checkpoint(directory)


def _checkpoint(directory: Path) -> Model:
    from icclip.config import ModelConfig
    from icclip.models.encoder import TorchEncoder
    from icclip.models.opening import open_model
    from icclip.plugins.registry import Registry

    loaded = open_model(Registry.from_environment(), ModelConfig(name=str(directory)))
    bias = getattr(loaded.model, "logit_bias", None)
    scale = _TorchScale(loaded.loss, loaded.model.logit_scale.item(), None if bias is None else bias.item())
    return Model(TorchEncoder(loaded, workers=0), scale)


def input_fn(body: str | bytes, content_type: str = JSON) -> dict[str, Any]:
    """The request as values, every field checked.

    Args:
        body: `{"task": "rank"|"encode_image"|"encode_text", "image_b64": ..., "texts": [...], "top_k": 5}`.
        content_type: of the request.

    Raises:
        RequestError: it is of another type, no JSON, too large, or a field is missing or of the wrong kind.
    """
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise RequestError(f"Unsupported content type: {content_type!r}: send {JSON}", UNSUPPORTED)
    if len(body) > MAX_BODY:
        raise RequestError(f"the request has {len(body):,} bytes: send at most {MAX_BODY:,}", TOO_LARGE)
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is not JSON ({error})") from error
    if not isinstance(request, dict):
        raise RequestError("the request is not a JSON object")
    return _checked(request)


def predict_fn(request: Mapping[str, Any], model: Model, _context: Any = None) -> dict[str, Any]:
    """What the task asks for: `top_k`, `image_embedding` or `text_embeddings`."""
    if request["task"] == "encode_image":
        return {"image_embedding": _image_embedding(model, request["image"]).tolist()}
    texts = model.encoder.encode_texts(request["texts"])
    if request["task"] == "encode_text":
        return {"text_embeddings": texts.tolist()}
    scores = probabilities(texts @ _image_embedding(model, request["image"]), model.scale)
    best = np.argsort(-scores, kind="stable")[: request["top_k"]]
    return {"top_k": [{"text": request["texts"][row], "score": float(scores[row])} for row in best]}


def output_fn(prediction: Mapping[str, Any], accept: str = JSON) -> str:
    """The answer as JSON.

    Raises:
        RequestError: another type is asked for.
    """
    wanted = accept.partition(";")[0].strip().lower()
    if wanted not in (JSON, "*/*", "application/*", ""):
        raise RequestError(f"Unsupported accept type: {accept!r}: the answer is {JSON}", UNSUPPORTED)
    return json.dumps(dict(prediction), ensure_ascii=False, allow_nan=False)


def _checked(request: Mapping[str, Any]) -> dict[str, Any]:
    task = request.get("task", "rank")
    if task not in TASKS:
        raise RequestError(f"task is {_short(task)}: choose one of {', '.join(TASKS)}")
    checked: dict[str, Any] = {"task": task}
    try:
        if task != "encode_text":
            checked["image"] = _image(request.get("image_b64"))
        if task != "encode_image":
            checked["texts"] = [text.value for text in INPUTS.texts(_list_of_texts(request), "texts")]
    except RequestProblem as problem:
        raise RequestError(str(problem), problem.status) from problem
    if task == "rank":
        checked["top_k"] = _top_k(request.get("top_k", 5))
    return checked


def _image(value: Any) -> Image:
    from icclip.data.images import decode_image

    picture = INPUTS.picture(value if isinstance(value, str) else None, "image_b64")
    try:
        return decode_image(picture.content, picture.field)
    except DataError as error:
        raise unreadable(str(error), picture.field) from error


def _list_of_texts(request: Mapping[str, Any]) -> list[str] | None:
    """None where the field is missing or something else, which is then said of it."""
    texts = request.get("texts")
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _top_k(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"top_k is {_short(value)}: send a whole number of at least 1")
    return value


def _image_embedding(model: Model, image: Image) -> np.ndarray:
    return np.asarray(model.encoder.encode_images([image])[0])


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
