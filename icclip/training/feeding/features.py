"""Features of frozen towers: what a tower that does not train makes of its images or captions, computed once.

They are kept beside the image cache, in files whose names are digests of everything that decides them: the
content of the images or the token ids of the captions, the weights and settings of the tower, the
preprocessing, the precision. So another weight means another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

from icclip.caches import cache_directory
from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.data.batches import prepared_batches
from icclip.errors import UsageError
from icclip.models.encoder import TorchEncoder
from icclip.models.feeder import Feeder
from icclip.models.loaded import LoadedModel
from icclip.models.trunk import CaptionFeatures, Trunk
from icclip.training.feeding.cache import RowCache, Rows, is_cached
from icclip.training.gentle.evaluation_mode import is_frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from icclip.config import Tower

FORMAT = 1
"""Goes up whenever the same input and settings give other features than before."""
AT_ONCE, AT_ONCE_ON_GPU = 8, 64
"""Images in a batch. A CPU takes half the time for each in small batches, whose layers' outputs stay in its caches."""
TEXTS_AT_ONCE = 32
FORGOTTEN = frozenset(
    {"_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
"""Settings that say where and how a tower was saved. The types of its weights are looked at by themselves."""
SORTED_AT_ONCE = 8192
"""Captions that are sorted by length, so that little is spent on padding."""


class FeatureCache(RowCache):
    """The pooled features of a split's images or captions, float32 [d] each."""


@dataclass(frozen=True)
class FrozenTowers:
    """The towers of a model that do not train, and what they make of a run's images and captions.

    Args:
        loaded: with its frozen weights marked.
        config: says whether features are kept.
        device: where the towers encode.
        reporter: told what is kept, or why it is not.
    """

    loaded: LoadedModel
    config: TrainConfig
    device: torch.device
    reporter: Reporter

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        config: TrainConfig,
        device: torch.device,
        reporter: Reporter,
        *,
        checkpoint: Path | None = None,
    ) -> FrozenTowers:
        """The towers of a model that is about to train.

        Args:
            loaded: as it will train.
            config: of the run.
            device: where the towers encode.
            reporter: told what is kept.
            checkpoint: from which the run goes on: the towers get its weights.

        Raises:
            UsageError: features are to be kept, and both towers train.
        """
        towers = cls(loaded, config, device, reporter)
        if config.cache_features == "on" and not towers.trunks:
            raise UsageError(
                "--cache-features on keeps what frozen towers make of their inputs, and here no tower is frozen as a whole: "
                "freeze one (--freeze vision), or leave out --cache-features"
            )
        if checkpoint is not None:
            for trunk in towers.trunks.values():
                _load(loaded.model, trunk, checkpoint)
        return towers

    @cached_property
    def trunks(self) -> Mapping[Tower, Trunk]:
        """The towers whose features are kept."""
        if self.config.cache_features == "off" or self.config.fsdp:
            return {}
        names: tuple[Tower, ...] = ("vision", "text")
        found = {name: Trunk.of(self.loaded, name) for name in names}
        frozen = {name: trunk for name, trunk in found.items() if is_frozen(trunk.module)}
        for trunk in frozen.values():
            trunk.accept_features()
        return frozen

    def images(self, images: Sequence[Any], content: Iterable[bytes], *, again: bool) -> FeatureCache | None:
        """The features of a split's images; None where they are not kept.

        Args:
            images: decoded or resized when asked for.
            content: a digest of each image's encoded bytes.
            again: whether the images are read more than once.

        Raises:
            DataError: an image cannot be read.
            UsageError: features are to be kept, and cannot be.
        """
        trunk = self.trunks.get("vision")
        if trunk is None:
            return None
        processor, feeder = self.loaded.feeder.processor.image_processor, self.loaded.feeder
        path = self._path(trunk, {"class": type(processor).__name__, **processor.to_dict()}, content)
        at_once = AT_ONCE if self.device.type == "cpu" else AT_ONCE_ON_GPU

        def batches() -> Iterator[Mapping[str, Tensor]]:
            return prepared_batches(images, feeder.image_inputs, batch_size=at_once, workers=self.config.workers)

        inputs = _Inputs("images", len(images), lambda: feeder.image_inputs([images[0]]), batches)
        return self._kept(trunk, path, inputs, again=again)

    def captions(self, texts: Sequence[str], *, again: bool) -> tuple[list[str], FeatureCache] | None:
        """The distinct captions and their features; None where they are not kept.

        Args:
            texts: may be repeated.
            again: whether they are read more than once.

        Raises:
            UsageError: features are to be kept, and cannot be.
        """
        trunk = self.trunks.get("text")
        if trunk is None:
            return None
        feeder, distinct = self.loaded.feeder, list(dict.fromkeys(texts))
        path = self._path(trunk, repr(feeder.text_policy), _contents(feeder, distinct))
        rows = _Captions(feeder, distinct)
        inputs = _Inputs("captions", len(distinct), lambda: feeder.text_inputs(distinct[:1]), rows.batches, rows.order)
        kept = self._kept(trunk, path, inputs, again=again)
        return None if kept is None else (distinct, kept)

    def _kept(self, trunk: Trunk, path: Path, inputs: _Inputs, *, again: bool) -> FeatureCache | None:
        mode = self.config.cache_features
        encoder = TorchEncoder(self.loaded, device=str(self.device), precision=self.config.precision)

        def encoded(batch: Mapping[str, Tensor]) -> np.ndarray:
            with encoder.inference():
                rows: np.ndarray = trunk.features(self._on_device(batch)).cpu().numpy()
            return rows

        rows = Rows(
            name=f"{trunk.tower}-feature cache",
            of=inputs.of,
            option="--cache-features",
            otherwise=f"the frozen {trunk.tower} tower will encode its {inputs.of} in every step",
            count=inputs.count,
            row=lambda: encoded(inputs.first())[0],
            batches=lambda: _in_order(map(encoded, inputs.batches()), inputs.order and inputs.order()),
        )
        if not self._can_stand_in(trunk, inputs.first(), encoder):
            return None
        return FeatureCache(path) if is_cached(rows, path, mode, worth_filling=again, reporter=self.reporter) else None

    def _can_stand_in(self, trunk: Trunk, inputs: Mapping[str, Tensor], encoder: TorchEncoder) -> bool:
        with encoder.inference():
            right = trunk.passes_on(self._on_device(inputs))
        if right:
            return True
        reason = (
            f"models of the backend {self.loaded.backend.name!r} use more of their {trunk.tower} tower than its pooled "
            "output, so its features cannot be kept"
        )
        if self.config.cache_features == "on":
            raise UsageError(f"{reason}: leave out --cache-features")
        self.reporter.note(reason)
        return False

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _path(self, trunk: Trunk, preprocessing: Any, content: Iterable[bytes]) -> Path:
        about = {
            "format": FORMAT,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self.device.type,
            "precision": self.config.precision,
            "preprocessing": preprocessing,
            "class": type(trunk.module).__name__,
            "settings": _settings(trunk.module),
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        for digest in chain(_weights(trunk.module), content):
            key.update(digest)
        return cache_directory() / "features" / f"{key.hexdigest()[:32]}.npy"


@dataclass(frozen=True)
class _Inputs:
    """What a tower encodes, as the feeder makes it."""

    of: str
    """What each is made of: `images`."""
    count: int
    first: Callable[[], Mapping[str, Tensor]]
    """The first one alone."""
    batches: Callable[[], Iterable[Mapping[str, Tensor]]]
    """All of them."""
    order: Callable[[], Iterable[np.ndarray]] | None = None
    """The places of what the batches hold, some thousands at a time; None: they come in order."""


@dataclass(frozen=True)
class _Captions:
    """Distinct captions in batches of like length."""

    feeder: Feeder
    texts: Sequence[str]

    def batches(self) -> Iterator[Mapping[str, Tensor]]:
        for places in self.order():
            for start in range(0, len(places), TEXTS_AT_ONCE):
                yield self.feeder.text_inputs([self.texts[place] for place in places[start : start + TEXTS_AT_ONCE]])

    def order(self) -> Iterator[np.ndarray]:
        """The places of the captions in the order in which they are encoded, int64, some thousands at a time."""
        for start in range(0, len(self.texts), SORTED_AT_ONCE):
            lengths = [len(text) for text in self.texts[start : start + SORTED_AT_ONCE]]
            yield start + np.argsort(lengths, kind="stable")


def with_caption_features(feeder: Feeder, known: Iterable[tuple[list[str], FeatureCache] | None]) -> Feeder:
    """A copy of the feeder that gives features instead of token ids, where there are any."""
    parts = [part for part in known if part is not None]
    return dataclasses.replace(feeder, caption_features=CaptionFeatures(parts)) if parts else feeder


def _in_order(batches: Iterator[np.ndarray], order: Iterable[np.ndarray] | None) -> Iterator[np.ndarray]:
    """Batches of rows, in the order of what they belong to.

    Args:
        batches: [b, d] each.
        order: of each window of rows, the places that its rows belong to; None: they come in order.
    """
    if order is None:
        yield from batches
        return
    for places in order:
        window: list[np.ndarray] = []
        while sum(map(len, window)) < len(places):
            window.append(next(batches))
        rows = np.concatenate(window)
        restored = np.empty_like(rows)
        restored[places - places.min()] = rows
        yield restored


def _contents(feeder: Feeder, texts: Sequence[str]) -> Iterator[bytes]:
    """What the tower sees of each text: its token ids, and where they end."""
    ids = feeder.tokens
    if ids is None or not all(text in ids for text in texts):
        ids = feeder.with_tokens(texts).tokens
        assert ids is not None, "they were just made"
    for text in texts:
        own = ids[text]
        yield len(own).to_bytes(4, "little") + own.tobytes()


def _weights(module: nn.Module) -> Iterator[bytes]:
    for name, value in module.state_dict().items():
        plain = value.detach().cpu().contiguous()
        yield repr((name, tuple(plain.shape), str(plain.dtype))).encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _settings(module: Any) -> dict[str, Any]:
    """Of a tower, without what saving it changes."""
    config = getattr(module, "config", None)
    values = {} if config is None else config.to_dict()
    return {name: value for name, value in values.items() if name not in FORGOTTEN}


def _load(model: nn.Module, trunk: Trunk, checkpoint: Path) -> None:
    """Give a frozen tower the weights that a checkpoint has for it, as Trainer does later."""
    start = next(name for name, module in model.named_modules() if module is trunk.module) + "."
    weights: dict[str, Tensor] = {}
    for path in sorted(checkpoint.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            weights |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(start)}  # noqa: SIM118
    model.load_state_dict(weights, strict=False)
