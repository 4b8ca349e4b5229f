"""What the gate compares: images and captions of a split, what the checkpoint makes of them, and what a bundle does."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icclip.bundles.manifest import Manifest
from icclip.bundles.parity_record import measured_batch, sampled_rows
from icclip.errors import DataError
from icclip.models.loaded import LoadedModel
from icclip.plugins.specs import Encoder
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.ranking import RetrievalRanks, rank
from icclip.retrieval.relevance import Relevance

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from icclip.config import LossFamily, RelevanceProtocol
    from icclip_export.gate.probes import Probes

SHOWN_CAPTION = 40


@dataclass(frozen=True)
class Compared:
    """The images and captions that both sides encode, and what the split calls them."""

    images: Sequence[Image]
    relevance: Relevance
    rows: np.ndarray
    """int64 [n_images]: their rows in the split."""
    protocol: RelevanceProtocol
    """Of the relevance."""

    @property
    def captions(self) -> CaptionMap:
        """Of these images."""
        return self.relevance.captions

    @classmethod
    def of(
        cls,
        images: Sequence[Image],
        captions: CaptionMap,
        sample: int,
        seed: int,
        *,
        protocol: RelevanceProtocol = "text",
        digests: Sequence[bytes] | None = None,
    ) -> Compared:
        """All of a split, or a seeded sample of it.

        Args:
            images: of the whole split.
            captions: theirs.
            sample: how many images are compared at most.
            seed: of their choice.
            protocol: what counts as a right answer.
            digests: of the images' content; None: no two images are the same.

        Raises:
            DataError: there is no image.
        """
        if not captions.n_images:
            raise DataError("the split holds no image: choose another with --split")
        rows = sampled_rows(captions.n_images, sample, seed)
        if len(rows) < captions.n_images:
            own = [captions.texts[captions.offsets[row] : captions.offsets[row + 1]] for row in rows]
            images, captions = Rows(images, rows), CaptionMap.from_lists(own)
        keys = None if digests is None else [digests[row] for row in rows]
        return cls(images, Relevance.of(captions, protocol, keys), rows, protocol)

    def image_name(self, index: int) -> str:
        """The image's row in the split."""
        return f"image {self.rows[index]}"

    def text_name(self, index: int) -> str:
        """A caption by its place, its image and its beginning."""
        image = int(self.captions.image_of_text[index])
        start = textwrap.shorten(self.captions.texts[index], SHOWN_CAPTION, placeholder="...")
        return f"caption {index - self.captions.offsets[image]} of {self.image_name(image)} {start!r}"


@dataclass(frozen=True)
class Rows(Sequence["Image"]):
    """Some images of a sequence, decoded when asked for."""

    images: Sequence[Image]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.images[int(self.rows[index])]


@dataclass(frozen=True)
class Embeddings:
    """What an encoder makes of a split: float32, unit rows."""

    images: np.ndarray
    """[n_images, dim]"""
    texts: np.ndarray
    """[n_texts, dim]"""

    @classmethod
    def of(cls, encoder: Encoder, data: Compared) -> Embeddings:
        """Both towers over all the data."""
        batch = measured_batch(encoder)
        return cls(
            encoder.encode_images(data.images, batch_size=batch),
            encoder.encode_texts(data.captions.texts, batch_size=batch),
        )

    def ranks(self, relevance: Relevance) -> RetrievalRanks:
        """Where the right answers stand."""
        return rank(self.images, self.texts, relevance)


@dataclass(frozen=True)
class Scoring:
    """What makes a score of a cosine."""

    loss: LossFamily
    logit_scale: float
    """The natural logarithm of the factor on the cosine."""
    logit_bias: float | None

    @classmethod
    def of_model(cls, loaded: LoadedModel) -> Scoring:
        """The checkpoint's."""
        bias = getattr(loaded.model, "logit_bias", None)
        return cls(loaded.loss, loaded.model.logit_scale.item(), None if bias is None else bias.item())

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Scoring:
        """A bundle's."""
        return cls(manifest.loss, manifest.logit_scale, manifest.logit_bias)

    @property
    def factor(self) -> float:
        """On the cosine."""
        return math.exp(self.logit_scale)

    def log_scores(self, cosines: np.ndarray) -> np.ndarray:
        """Cosines [n] of one image with n texts -> float64 [n]: logarithms of probabilities, as the model was trained."""
        import numpy as np

        logits: np.ndarray = cosines.astype(np.float64) * self.factor + (self.logit_bias or 0.0)
        if self.loss == "sigmoid":
            # The logarithm of a sigmoid, without overflow at either end.
            return np.asarray(-np.logaddexp(0.0, -logits))
        return np.asarray(logits - np.logaddexp.reduce(logits))


@dataclass(frozen=True)
class Reference:
    """What the checkpoint makes of the data."""

    data: Compared
    embeddings: Embeddings
    ranks: RetrievalRanks
    scoring: Scoring
    probes: Probes | None = None
    """None: an encoder without a pipeline of its own to be probed."""

    @classmethod
    def of(cls, encoder: Encoder, scoring: Scoring, data: Compared, probes: Probes | None = None) -> Reference:
        """Encode the data.

        Raises:
            DataError: an image cannot be decoded.
            CheckpointError: the checkpoint gives embeddings that cannot be compared.
        """
        embeddings = Embeddings.of(encoder, data)
        return cls(data, embeddings, embeddings.ranks(data.relevance), scoring, probes)
