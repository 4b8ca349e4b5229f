from __future__ import annotations

from evaluating.runs import photos, run_directory

__all__ = ["photos", "run_directory"]
