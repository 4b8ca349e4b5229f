"""Retrieval metrics of a model in training: each process encodes its share, and the first one ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import distributed

from icclip.config import TrainConfig
from icclip.models.encoder import TorchEncoder
from icclip.models.loaded import LoadedModel
from icclip.plugins.specs import MetricSpec
from icclip.retrieval.dispersion import dispersion
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance
from icclip.training.feeding.sources import Images
from icclip.training.processes.gather import from_first_process, is_distributed, to_first_process


@dataclass(frozen=True)
class Validation:
    """Measures a model on one split."""

    images: Images
    relevance: Relevance
    metrics: Sequence[MetricSpec]
    config: TrainConfig
    device: str

    def __call__(self, loaded: LoadedModel) -> dict[str, float]:
        """The retrieval metrics and the numbers that show a collapse, the same on every process."""
        process, processes = (distributed.get_rank(), distributed.get_world_size()) if is_distributed() else (0, 1)
        encoder = TorchEncoder(loaded, device=self.device, precision=self.config.precision, workers=self.config.workers)
        own = self.relevance.captions.texts
        texts = [str(text) for text in np.array_split(np.array(own, dtype=object), processes)[process]]
        share = self.images.shard(processes, process)
        # A split may have fewer rows than there are processes.
        images = encoder.encode_images(share, batch_size=self.config.eval_bs) if len(share) else None
        embeddings = to_first_process((images, encoder.encode_texts(texts) if texts else None))
        metrics = from_first_process(self._measure(embeddings) if embeddings is not None else None)
        return {**metrics, "logit_scale": loaded.model.logit_scale.item()}

    def _measure(self, shares: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> dict[str, float]:
        images, texts = (
            np.concatenate([part for part in parts if part is not None]) for parts in zip(*shares, strict=True)
        )
        metrics = dict(retrieval_metrics(rank(images, texts, self.relevance), self.metrics))
        towers = {"image": dispersion(images), "text": dispersion(texts)}
        return metrics | {f"{tower}_{name}": value for tower, of in towers.items() for name, value in of.items()}
