from __future__ import annotations

from support.bundle_fixtures import bundle, bundles, dynamic, family, fresh, tinies, tiny

__all__ = ["bundle", "bundles", "dynamic", "family", "fresh", "tinies", "tiny"]
