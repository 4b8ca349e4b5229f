"""Encode images and texts as unit vectors with torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from icclip.config import LossFamily, Precision
from icclip.console import Reporter
from icclip.data.batches import prepared_batches
from icclip.data.lengths import CutCaptions
from icclip.errors import CheckpointError, UsageError
from icclip.models.loaded import LoadedModel

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

AUTOCAST: Mapping[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str | None) -> torch.device:
    """Find the device called `name`; None chooses the GPU if there is one, or else the CPU.

    Raises:
        UsageError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: give cpu, cuda, cuda:N or mps") from error
    available = {"cpu": True, "cuda": (device.index or 0) < torch.cuda.device_count(), "mps": _has_mps()}
    if not available.get(device.type, False):
        here = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *["mps"] * _has_mps()])
        raise UsageError(f"device {name!r} is not available: this machine has {here}")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


class TorchEncoder:
    """Encodes with a loaded model; see `icclip.plugins.specs.Encoder`.

    Args:
        loaded: the model, which is moved to the device.
        device: the name of a device, or None; see `choose_device`.
        precision: the precision of the matrix products; the weights and the embeddings are float32.
        workers: number of processes that decode and preprocess images; None chooses from the number of cores.
        reporter: shows the progress.

    Raises:
        UsageError: the device does not exist, or does not support the precision.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        workers: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.loaded, self.precision, self.workers = loaded, precision, workers
        self.reporter = reporter or Reporter(silent=True)
        self.device = choose_device(device)
        if precision == "fp16" and self.device.type == "cpu":
            raise UsageError("fp16 needs a GPU: on a CPU use bf16, or leave it out")
        if self.device.type == "cuda":
            # TF32: ten bits of mantissa in products, float32 sums; several times faster.
            torch.set_float32_matmul_precision("high")
        loaded.model.to(self.device)

    @property
    def description(self) -> str:
        """A short description for people: `siglip, 3.1 M parameters, cpu, fp32`."""
        about = self.loaded.describe()
        return f"{about['model_type']}, {about['parameters'] / 1e6:.1f} M parameters, {self.device}, {self.precision}"

    @property
    def loss(self) -> LossFamily:
        """What the model was trained with: it decides how cosines become scores."""
        return self.loaded.loss

    @property
    def logit_scale(self) -> float:
        """The natural logarithm of the factor on the cosine."""
        return float(self.loaded.model.logit_scale.detach())

    @property
    def logit_bias(self) -> float | None:
        """What is added to the scaled cosine; None for models that have none."""
        bias = getattr(self.loaded.model, "logit_bias", None)
        return None if bias is None else float(bias.detach())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over weights, precision, preprocessing, tokenizer and text policy: all that decides embeddings."""
        feeder = self.loaded.feeder
        about = [self.precision, self.loaded.backend.name, repr(feeder.text_policy)]
        about += [
            feeder.processor.image_processor.to_json_string(),
            repr(sorted(feeder.processor.tokenizer.get_vocab().items())),
        ]
        digest = hashlib.sha256(json.dumps(about).encode())
        for name, values in sorted(self.loaded.model.state_dict().items()):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def encode_images(self, images: Sequence[Image] | Sequence[np.ndarray], *, batch_size: int = 128) -> np.ndarray:
        """Encode images, which may be decoded lazily; see `Feeder.image_inputs`. Returns float32 [n, dim] with rows of length 1.

        Raises:
            DataError: an image cannot be decoded.
            CheckpointError: an embedding is not finite.
        """
        inputs = prepared_batches(
            images,
            self.loaded.feeder.image_inputs,
            batch_size=batch_size,
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        return self._encode("images", len(images), inputs, self.loaded.image_features)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Encode texts. Returns float32 [n, dim] with rows of length 1, in the order of the texts.

        Raises:
            CheckpointError: an embedding is not finite.
        """
        # Texts of similar length share a batch, so that there is little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        inputs = (
            self.loaded.feeder.text_inputs([texts[i] for i in order[start : start + batch_size]])
            for start in range(0, len(texts), batch_size)
        )
        by_length = self._encode("texts", len(texts), inputs, self.loaded.text_features)
        restored = np.empty_like(by_length)
        restored[order] = by_length
        return restored

    def cut_captions(self, texts: Sequence[str]) -> CutCaptions:
        """Which texts are longer than the text tower can read."""
        return self.loaded.feeder.cut_captions(texts)

    def _encode(
        self,
        what: str,
        total: int,
        inputs: Iterable[Mapping[str, Tensor]],
        encode: Callable[[Mapping[str, Tensor]], Tensor],
    ) -> np.ndarray:
        rows = []
        with self.inference(), self.reporter.progress(f"encoding {what}", total) as advance:
            for batch in inputs:
                features = encode({name: t.to(self.device, non_blocking=True) for name, t in batch.items()}).float()
                units = torch.nn.functional.normalize(features, dim=-1)
                rows.append(self._checked(units, what))
                advance(len(units))
        return np.concatenate(rows)

    def _checked(self, units: Tensor, what: str) -> np.ndarray:
        if not torch.isfinite(units).all():
            raise CheckpointError(
                f"{self.loaded.source} gives embeddings of {what} that are not finite: either its weights are damaged, "
                f"or {self.precision} has too small a range for them; try fp32"
            )
        array: np.ndarray = units.cpu().numpy()
        return array

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Encode without gradients and dropout in the chosen precision, and restore the model's mode afterwards."""
        model, dtype = self.loaded.model, AUTOCAST.get(self.precision)
        training = model.training
        model.eval()
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                yield
        finally:
            model.train(training)
