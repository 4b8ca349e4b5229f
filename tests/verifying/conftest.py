from __future__ import annotations

from support.bundle_fixtures import bundle, bundles, family, fresh, tinies, tiny

__all__ = ["bundle", "bundles", "family", "fresh", "tinies", "tiny"]
