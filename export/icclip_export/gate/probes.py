"""The probe set at the gate: the checkpoint's own pipeline and a bundle process the same unusual inputs.

A split only shows differences for its own kind of inputs: with small square images and short captions, a bundle may
resize, crop, cut or normalise differently without any effect. The probes are compared at every step, so that each difference is
seen where it arises: token ids must be the same, pixels within a grey level, and embeddings within the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icclip.bundles.parity_record import Thresholds
from icclip.bundles.probes import probe_images, probe_texts
from icclip.data.images import decode_image
from icclip.models.loaded import LoadedModel
from icclip.models.quiet import quiet_transformers
from icclip.plugins.specs import Encoder
from icclip.retrieval.agreement import cosines
from icclip_export.gate.checks import Requirement

if TYPE_CHECKING:
    from PIL.Image import Image

    from icclip.runtime import Encoder as BundleEncoder

GREY_LEVEL = 1.0
"""Processors that resize with torchvision round differently from Pillow, by up to one level of 255."""
SPECIAL = 8
"""Number of special tokens that are written out in a probe; some vocabularies have hundreds."""
NAMED = 5
"""Number of probes that a failure names."""
_ROUNDING = 1e-3
"""Tolerance for a grey level that was scaled and normalised in float32."""


@dataclass(frozen=True)
class Probes:
    """The probe set for one checkpoint, with the results of its own processor, tokenizer and towers."""

    images: Mapping[str, Image]
    """What is special about each image -> the image as a file would store it, including its orientation."""
    texts: Mapping[str, str]
    """What is special about each text -> the text."""
    lengths: tuple[int, ...]
    """The number of tokens of each text before it is cut."""
    limit: int
    """The number of tokens that the text tower reads."""
    pixels: np.ndarray
    """The pixels that the processor makes, float32 [n_images, 3, h, w]."""
    grey_level: np.ndarray
    """float64 [3, 1, 1]: the size of one of 255 grey levels in `pixels`."""
    token_ids: tuple[np.ndarray, ...]
    """int64 [1, length] for each text by itself."""
    image_embeddings: np.ndarray
    """float32 [n_images, dim], unit rows."""
    text_embeddings: np.ndarray
    """float32 [n_texts, dim], unit rows."""

    @classmethod
    def of(cls, loaded: LoadedModel, encoder: Encoder) -> Probes:
        """Make the probes and encode them.

        Args:
            loaded: the checkpoint, whose feeder uses transformers' processor and tokenizer.
            encoder: its towers in torch.

        Raises:
            CheckpointError: the checkpoint gives an embedding that is not finite.
        """
        feeder = loaded.feeder
        processor, tokenizer, limit = feeder.processor.image_processor, feeder.processor.tokenizer, _limit(loaded)

        def count(text: str) -> int:
            return len(tokenizer(text.lower() if feeder.text_policy.lowercase else text)["input_ids"])

        with quiet_transformers():
            texts = probe_texts(count, limit, tokenizer.all_special_tokens[:SPECIAL])
            lengths = tuple(count(text) for text in texts.values())
        images = probe_images(_side(feeder.image_inputs([decode_image(_any_image(), "a probe")])))
        upright = [decode_image(image, name) for name, image in images.items()]
        return cls(
            images=images,
            texts=texts,
            lengths=lengths,
            limit=limit,
            # Processed one by one, because a processor guesses the properties of a batch from its first image.
            pixels=np.concatenate([feeder.image_inputs([image])["pixel_values"].numpy() for image in upright]),
            grey_level=_grey_level(processor),
            token_ids=tuple(feeder.text_inputs([text])["input_ids"].numpy() for text in texts.values()),
            image_embeddings=encoder.encode_images(upright),
            text_embeddings=encoder.encode_texts(list(texts.values())),
        )

    def exercised(self) -> dict[str, int]:
        """The features of a pipeline that the probes use, each with the number of such probes, for the record."""
        height, width = self.pixels.shape[-2:]
        sizes = [image.size for image in self.images.values()]
        return {
            "images": len(sizes),
            "images made smaller": sum(w > width and h > height for w, h in sizes),
            "images made larger": sum(w < width and h < height for w, h in sizes),
            "images of another shape": sum(w * height != h * width for w, h in sizes),
            "images converted to RGB": sum(image.mode != "RGB" for image in self.images.values()),
            "images turned": sum("exif" in image.info for image in self.images.values()),
            "texts": len(self.texts),
            "texts cut": sum(length > self.limit for length in self.lengths),
            "texts of exactly the limit": sum(length == self.limit for length in self.lengths),
            "texts beyond ASCII": sum(not text.isascii() for text in self.texts.values()),
            "texts with special tokens written out": sum(name.endswith("written out") for name in self.texts),
        }


def probe_checks(
    encoder: BundleEncoder, probes: Probes, limits: Thresholds
) -> tuple[list[Requirement], dict[str, Any]]:
    """Require that a bundle processes the probes as the checkpoint does.

    Returns:
        The requirements, and every number by probe for the record.

    Raises:
        CheckpointError: the bundle does not run.
    """
    # Encoded alone, because a text's neighbours decide how far it is padded, and dynamic scales depend on them.
    images = encoder.encode_images(list(probes.images.values()), batch_size=1)
    texts = encoder.encode_texts(list(probes.texts.values()), batch_size=1)
    levels = {name: _levels_apart(encoder, probes, row) for row, name in enumerate(probes.images)}
    same = {name: _same_ids(encoder, probes, row) for row, name in enumerate(probes.texts)}
    vision, text = (
        _by_name(probes.images, probes.image_embeddings, images),
        _by_name(probes.texts, probes.text_embeddings, texts),
    )
    other = [name for name, is_same in same.items() if not is_same]
    checks = [
        Requirement("probes.tokens", 1 - len(other) / len(same), 1.0, at_least=True, where=_named(other)),
        Requirement("probes.pixels", max(levels.values()), GREY_LEVEL, at_least=False, where=_named(_far(levels))),
        *_embedding_checks("probes.vision", vision, limits),
        *_embedding_checks("probes.text", text, limits),
    ]
    measured = {
        "exercised": probes.exercised(),
        "images": {name: {"grey_levels": levels[name], **vision[name]} for name in probes.images},
        "texts": {name: {"same_tokens": same[name], **text[name]} for name in probes.texts},
    }
    return checks, measured


def _embedding_checks(name: str, found: Mapping[str, Mapping[str, float]], limits: Thresholds) -> Iterator[Requirement]:
    lowest = sorted(found, key=lambda probe: found[probe]["cosine"])
    worst = [probe for probe in lowest if not found[probe]["cosine"] >= limits.min_cosine] or lowest[:1]
    cosine = found[lowest[0]]["cosine"]
    yield Requirement(f"{name}.cosine", cosine, limits.min_cosine, at_least=True, where=_named(worst))
    if limits.embedding_abs is not None:
        furthest = max(found, key=lambda probe: found[probe]["difference"])
        apart = found[furthest]["difference"]
        yield Requirement(f"{name}.difference", apart, limits.embedding_abs, at_least=False, where=_named([furthest]))


def _by_name(names: Mapping[str, Any], known: np.ndarray, found: np.ndarray) -> dict[str, dict[str, float]]:
    """The cosine and the largest difference of a component for each name; a different shape counts as no agreement."""
    if known.shape != found.shape:
        return {name: {"cosine": 0.0, "difference": float("inf")} for name in names}
    own = np.nan_to_num(cosines(known, found), nan=0.0)
    apart = np.abs(known.astype(np.float64) - found).max(axis=1)
    return {
        name: {"cosine": float(cosine), "difference": float(difference)}
        for name, cosine, difference in zip(names, own, apart, strict=True)
    }


def _levels_apart(encoder: BundleEncoder, probes: Probes, row: int) -> float:
    """Largest difference of a pixel in grey levels of 255, without the rounding of float32."""
    image = list(probes.images.values())[row]
    ours, known = encoder.preprocessor([image])[0], probes.pixels[row]
    if ours.shape != known.shape:
        return 255.0
    apart = float((np.abs(ours.astype(np.float64) - known) / probes.grey_level).max())
    return max(0.0, apart - _ROUNDING)


def _same_ids(encoder: BundleEncoder, probes: Probes, row: int) -> bool:
    text = list(probes.texts.values())[row]
    return bool(np.array_equal(encoder.tokenization([text]), probes.token_ids[row]))


def _far(levels: Mapping[str, float]) -> list[str]:
    """The probes that are too far away, the furthest first; if none is, only the furthest."""
    order = sorted(levels, key=lambda name: -levels[name])
    return [name for name in order if not levels[name] <= GREY_LEVEL] or order[:1]


def _named(probes: list[str]) -> str:
    """`the probe 'odd'`, `the probes 'odd', 'larger' and 7 more`."""
    if not probes:
        return ""
    shown = ", ".join(repr(name) for name in probes[:NAMED])
    more = f" and {len(probes) - NAMED} more" if len(probes) > NAMED else ""
    return f"the probe{'s' if len(probes) > 1 else ''} {shown}{more}"


def _limit(loaded: LoadedModel) -> int:
    return int(loaded.feeder.text_policy.max_length)


def _any_image() -> Image:
    return next(iter(probe_images(64).values()))


def _side(inputs: Mapping[str, Any]) -> int:
    return int(min(inputs["pixel_values"].shape[-2:]))


def _grey_level(processor: Any) -> np.ndarray:
    """The size of one grey level after the processor, by channel: float64 [3, 1, 1]."""
    step = processor.rescale_factor if processor.do_rescale else 1.0
    std = processor.image_std if processor.do_normalize else 1.0
    return np.broadcast_to(step / np.asarray(std, np.float64), (3,))[:, None, None]
