"""The conformance kit: what a plugin must keep to, for `icclip plugins check` and a plugin author's own tests."""

from icclip.testing.kit import (
    Check,
    ConformanceError,
    check_backend,
    check_by_name,
    check_dataset,
    check_metric,
    check_plugin,
)

__all__ = [
    "Check",
    "ConformanceError",
    "check_backend",
    "check_by_name",
    "check_dataset",
    "check_metric",
    "check_plugin",
]
