"""Retrieval metrics of a model in training: each process encodes its share, and the first one ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import distributed

from icclip.config import TrainConfig
from icclip.models.encoder import TorchEncoder
from icclip.models.loaded import LoadedModel
from icclip.plugins.specs import MetricSpec
from icclip.retrieval.bootstrap import Hits, differences
from icclip.retrieval.dispersion import dispersion
from icclip.retrieval.metrics import retrieval_metrics
from icclip.retrieval.ranking import rank
from icclip.retrieval.relevance import Relevance
from icclip.runs.baseline import read_baseline, write_baseline
from icclip.runs.history import GAIN
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
    run: Path | None = None
    """The run directory, which keeps what step 0 answered; None: nothing is compared with step 0."""
    begins: bool = True
    """Whether the run starts from its beginning, so that its first measurement is that of step 0."""

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
        ranks = rank(images, texts, self.relevance)
        metrics = dict(retrieval_metrics(ranks, self.metrics))
        towers = {"image": dispersion(images), "text": dispersion(texts)}
        metrics |= {f"{tower}_{name}": value for tower, of in towers.items() for name, value in of.items()}
        return metrics | self._gain(Hits.of(ranks))

    def _gain(self, hits: Hits) -> dict[str, float]:
        """By how much rsum differs from that of step 0, image by image; empty where step 0 is not known."""
        baseline = None if self.run is None else read_baseline(self.run)
        if baseline is None or not baseline.same_split(hits):
            if self.run is not None and self.begins:
                write_baseline(self.run, hits)
            return {}
        found = differences(baseline, hits)["rsum"]
        return dict(zip(GAIN, (found.value, found.low, found.high), strict=True))
