"""Train a model with another loss than its own."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from icclip.models.objective import set_loss

if TYPE_CHECKING:
    from icclip.config import LossFamily
    from icclip.data.gallery import Gallery
    from icclip.models.loaded import LoadedModel

PAIRS = 64
"""Number of pairs that a new bias is fitted to."""


def with_loss(loaded: LoadedModel, loss: LossFamily | None, gallery: Gallery, batch: int) -> LoadedModel:
    """Prepare the model to train with `loss`; the model itself is changed.

    Args:
        loaded: the model, on the CPU.
        loss: the loss; None means the one that it was last trained with.
        gallery: pairs that a new bias is fitted to.
        batch: number of pairs in a step of all processes.
    """
    wanted = loss or loaded.loss
    lacks_bias = wanted == "sigmoid" and getattr(loaded.model, "logit_bias", None) is None
    set_loss(loaded.model, wanted, loaded.backend.loss, fitted_bias(loaded, gallery, batch) if lacks_bias else 0.0)
    return dataclasses.replace(loaded, loss=wanted)


def fitted_bias(loaded: LoadedModel, gallery: Gallery, batch: int) -> float:
    """Compute the initial bias of the sigmoid loss for a model that was trained without one.

    An average pair that does not match then has the probability of a match among `batch` pairs,
    1 / batch, so that the first steps are not spent on learning how rare matches are. SigLIP's own bias of
    -10 does the same (Zhai et al. 2023, arXiv:2303.15343, section 3.2), whose temperature and
    cosines are not those of other models.
    """
    count = min(PAIRS, gallery.captions.n_images)
    texts = [gallery.captions.texts[gallery.captions.offsets[row]] for row in range(count)]
    model = loaded.model.eval()
    with torch.inference_mode():
        images, captions = (
            functional.normalize(rows.float(), dim=-1)
            for rows in (
                loaded.image_features(loaded.feeder.image_inputs([gallery.images[row] for row in range(count)])),
                loaded.text_features(loaded.feeder.text_inputs(texts)),
            )
        )
        logits = model.logit_scale.float().exp() * images @ captions.T
        others = logits[~torch.eye(count, dtype=torch.bool)]
    # A single pair has nothing to be compared with.
    average = others.mean().item() if len(others) else 0.0
    return -average - math.log(max(1, batch - 1))
