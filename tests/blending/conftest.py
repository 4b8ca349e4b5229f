from __future__ import annotations

from support.training_fixtures import _one_thread, captions, config, data, pictures, quiet, registry, tiny

__all__ = ["_one_thread", "captions", "config", "data", "pictures", "quiet", "registry", "tiny"]
