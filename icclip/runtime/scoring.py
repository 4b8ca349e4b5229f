"""Turn cosines into scores, in the way the model was trained."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from icclip.config import LossFamily


class Scale(Protocol):
    """What turns a model's cosines into its scores; a bundle's manifest has it."""

    @property
    def loss(self) -> LossFamily:
        """The loss that the model was trained with."""
        ...

    @property
    def logit_scale(self) -> float:
        """The natural logarithm of the factor on the cosine."""
        ...

    @property
    def logit_bias(self) -> float | None:
        """What is added to the scaled cosine; None for nothing."""
        ...


def probabilities(cosines: np.ndarray, scale: Scale) -> np.ndarray:
    """Turn the cosines [n] of one image with n texts into probabilities, float32 [n], in the way the model was trained.

    Models with the softmax loss use softmax over the texts (CLIP, arXiv:2103.00020), those with the sigmoid loss
    a sigmoid with the learnt bias (SigLIP, arXiv:2303.15343).
    """
    logits = cosines.astype(np.float64) * np.exp(scale.logit_scale) + (scale.logit_bias or 0.0)
    if scale.loss == "sigmoid":
        # The sigmoid, without overflow at either end.
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        weights = np.exp(logits - logits.max(initial=-np.inf))
        scores = weights / weights.sum()
    return np.asarray(scores, np.float32)
