"""What an evaluation keeps beside its metrics, and what it says about the data that it read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.retrieval.queries import cosine_counts, first_answers, query_ranks
from icclip.retrieval.ranking import RetrievalRanks
from icclip.runs.ranks import SavedRanks, write_ranks
from icclip.runs.results import public_about

if TYPE_CHECKING:
    import numpy as np

    from icclip.data.gallery import Gallery

MANY = 2 * 10**8
"""Similarities above which the first answers of each query are not kept, because finding them is a second ranking."""

Keep = Callable[[RetrievalRanks, "np.ndarray", "np.ndarray"], None]
"""Takes the ranks, and the embeddings of images and texts."""


def keep_ranks(path: Path, gallery: Gallery, about: Mapping[str, Any]) -> Keep:
    """A function that writes the ranks of every query to `path`.

    Args:
        path: the parquet file.
        gallery: the split.
        about: what is measured, as for `write_metrics`.
    """

    def keep(ranks: RetrievalRanks, images: np.ndarray, texts: np.ndarray) -> None:
        small = len(images) * len(texts) <= MANY
        first = (first_answers(images, texts), first_answers(texts, images)) if small else None
        content = {
            **public_about(about),
            "fingerprint": gallery.fingerprint(),
            "images": len(images),
            "texts": len(texts),
            "kinds": len(ranks.relevance.images),
            "cosines": cosine_counts(images, texts, ranks),
        }
        write_ranks(path, SavedRanks(content, *query_ranks(ranks, first)))

    return keep


def size_line(dataset: str, split: str, published: Mapping[str, Any], gallery: Gallery) -> str | None:
    """How a split differs from the published one, in one line; None where it does not, or where that is unknown."""
    here = (gallery.captions.n_images, gallery.captions.n_texts)
    there = tuple(published.get(split, here))
    if here == there:
        return None
    return (
        f"the {split} split has {here[0]:,} images and {here[1]:,} captions, and the published one of {dataset} has "
        f"{there[0]:,} and {there[1]:,}: numbers on it cannot be compared with published ones"
    )
