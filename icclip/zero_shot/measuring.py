"""From an encoder and classes to the place of each image's right class."""

from __future__ import annotations

from collections.abc import Sequence

from icclip.bundles.parity_record import measured_batch
from icclip.console import Reporter
from icclip.data.lengths import cut_captions
from icclip.plugins.specs import Encoder
from icclip.retrieval.classification import CUTOFFS, ClassRanks, classify
from icclip.zero_shot.classes import ClassSet
from icclip.zero_shot.prompts import prompts_of

TEXT_BATCH = 256


def class_ranks(
    encoder: Encoder, classes: ClassSet, templates: Sequence[str], reporter: Reporter, *, image_batch: int = 128
) -> ClassRanks:
    """Encode the images and all prompts, and classify.

    Args:
        encoder: the encoder, which shows its own progress.
        classes: the images and the names of their classes.
        templates: what the prompts are made from, each with `{}`.
        reporter: shows the progress, and warns about prompts that are cut.
        image_batch: number of images per batch.

    Raises:
        DataError: an image cannot be read.
        CheckpointError: the embeddings cannot be compared.
    """
    texts = prompts_of(classes.names, templates)
    if cut := cut_captions(encoder, texts):
        reporter.warn(f"of the prompts, {cut.line}")
    prompts = encoder.encode_texts(texts, batch_size=measured_batch(encoder, TEXT_BATCH))
    images = encoder.encode_images(classes.images, batch_size=measured_batch(encoder, image_batch))
    return classify(images, prompts, classes.labels, prompts=len(templates), progress=reporter.progress)


def doubts(found: ClassRanks) -> list[str]:
    """What a reader of the numbers should know."""
    lines = []
    if found.n_classes <= max(CUTOFFS):
        lines.append(f"top-5 is always 100 %, whatever the model: there are only {found.n_classes} classes")
    tied = int((found.ranks > found.optimistic).sum())
    if tied:
        lines.append(
            f"{tied:,} of {len(found):,} images score the same with their class and with another: ties count as misses"
        )
    return lines
