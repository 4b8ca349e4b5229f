"""Cosines -> scores, as a model was trained to score."""

from __future__ import annotations

import numpy as np

from icclip.bundles.manifest import Manifest


def probabilities(cosines: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Cosines [n] of one image with n texts -> float32 [n], as the model was trained to score them.

    Softmax over the texts for the softmax loss (CLIP, arXiv:2103.00020), a sigmoid with the learnt bias for
    the sigmoid loss (SigLIP, arXiv:2303.15343).
    """
    logits = cosines.astype(np.float64) * np.exp(manifest.logit_scale) + (manifest.logit_bias or 0.0)
    if manifest.loss == "sigmoid":
        # The sigmoid, without overflow at either end.
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        weights = np.exp(logits - logits.max(initial=-np.inf))
        scores = weights / weights.sum()
    return np.asarray(scores, np.float32)
