"""What the gate compares: images and captions of a split, as the checkpoint and a bundle encode them."""

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
    from icclip.retrieval.judgements import Judged
    from icclip_export.gate.probes import Probes

SHOWN_CAPTION = 40


@dataclass(frozen=True)
class Compared:
    """The images and captions that both sides encode, and their names in the split."""

    images: Sequence[Image]
    relevance: Relevance
    rows: np.ndarray
    """int64 [n_images]: the rows of the images in the split."""

    @property
    def captions(self) -> CaptionMap:
        """The captions of these images."""
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
        judged: Judged | None = None,
    ) -> Compared:
        """Take all of a split, or a seeded sample of it.

        Args:
            images: the images of the whole split.
            captions: the captions of these images.
            sample: the maximum number of images to compare.
            seed: the seed of the sample.
            protocol: what counts as a right answer.
            digests: digests of the images' content; None means that no two images are the same.
            judged: the right answers as people have judged them, instead of the protocol.

        Raises:
            DataError: the split has no images.
        """
        if not captions.n_images:
            raise DataError("the split holds no image: choose another with --split")
        rows = sampled_rows(captions.n_images, sample, seed)
        judged = None if judged is None else judged.of_images(captions, rows)
        if len(rows) < captions.n_images:
            own = [captions.texts[captions.offsets[row] : captions.offsets[row + 1]] for row in rows]
            images, captions = Rows(images, rows), CaptionMap.from_lists(own)
        if judged is not None:
            return cls(images, judged.relevance(captions), rows)
        keys = None if digests is None else [digests[row] for row in rows]
        return cls(images, Relevance.of(captions, protocol, keys), rows)

    def image_name(self, index: int) -> str:
        """Name an image by its row in the split."""
        return f"image {self.rows[index]}"

    def text_name(self, index: int) -> str:
        """Name a caption by its index, its image and its beginning."""
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
    """The embeddings of a split by one encoder: float32, unit rows."""

    images: np.ndarray
    """[n_images, dim]"""
    texts: np.ndarray
    """[n_texts, dim]"""

    @classmethod
    def of(cls, encoder: Encoder, data: Compared) -> Embeddings:
        """Encode all the data with both towers."""
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
    """How a cosine becomes a score."""

    loss: LossFamily
    logit_scale: float
    """The natural logarithm of the factor on the cosine."""
    logit_bias: float | None

    @classmethod
    def of_model(cls, loaded: LoadedModel) -> Scoring:
        """The scoring of a checkpoint."""
        bias = getattr(loaded.model, "logit_bias", None)
        return cls(loaded.loss, loaded.model.logit_scale.item(), None if bias is None else bias.item())

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Scoring:
        """The scoring of a bundle."""
        return cls(manifest.loss, manifest.logit_scale, manifest.logit_bias)

    @property
    def factor(self) -> float:
        """The factor on the cosine."""
        return math.exp(self.logit_scale)

    def log_scores(self, cosines: np.ndarray) -> np.ndarray:
        """Turn cosines [n] of one image with n texts into logarithms of probabilities, float64 [n], as the model was trained."""
        import numpy as np

        logits: np.ndarray = cosines.astype(np.float64) * self.factor + (self.logit_bias or 0.0)
        if self.loss == "sigmoid":
            # The logarithm of a sigmoid, without overflow at either end.
            return np.asarray(-np.logaddexp(0.0, -logits))
        return np.asarray(logits - np.logaddexp.reduce(logits))


@dataclass(frozen=True)
class Reference:
    """The checkpoint's side of the comparison."""

    data: Compared
    embeddings: Embeddings
    ranks: RetrievalRanks
    scoring: Scoring
    probes: Probes | None = None
    """The checkpoint's probes; None for an encoder without a pipeline that can be probed."""

    @classmethod
    def of(cls, encoder: Encoder, scoring: Scoring, data: Compared, probes: Probes | None = None) -> Reference:
        """Encode the data.

        Raises:
            DataError: an image cannot be decoded.
            CheckpointError: the checkpoint's embeddings cannot be compared.
        """
        embeddings = Embeddings.of(encoder, data)
        return cls(data, embeddings, embeddings.ranks(data.relevance), scoring, probes)
