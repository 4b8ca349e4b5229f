"""Turn cosines into scores, in the way the model was trained."""

from __future__ import annotations

import numpy as np

from icclip.bundles.manifest import Manifest


def probabilities(cosines: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Turn the cosines [n] of one image with n texts into probabilities, float32 [n], in the way the model was trained.

    Models with the softmax loss use softmax over the texts (CLIP, arXiv:2103.00020), those with the sigmoid loss
    a sigmoid with the learnt bias (SigLIP, arXiv:2303.15343).
    """
    logits = cosines.astype(np.float64) * np.exp(manifest.logit_scale) + (manifest.logit_bias or 0.0)
    if manifest.loss == "sigmoid":
        # The sigmoid, without overflow at either end.
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        weights = np.exp(logits - logits.max(initial=-np.inf))
        scores = weights / weights.sum()
    return np.asarray(scores, np.float32)
