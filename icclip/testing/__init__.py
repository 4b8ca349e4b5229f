"""The conformance kit, which checks that a plugin does what its specs promise.

For a plugin author's own pytest:

    import my_plugin
    from icclip.testing import check_dataset, check_plugin

    def test_my_plugin():
        check_plugin(my_plugin)

Each `check_...` returns every `Check` that it made, including skipped ones with the reason, and raises
`ConformanceError` with all failures in one message. `icclip plugins check NAME` prints the same checks.
"""

from icclip.testing.plugins import check_by_name, check_plugin
from icclip.testing.record import Check, ConformanceError
from icclip.testing.specs import check_backend, check_dataset, check_export_target, check_index_target, check_metric

__all__ = [
    "Check",
    "ConformanceError",
    "check_backend",
    "check_by_name",
    "check_dataset",
    "check_export_target",
    "check_index_target",
    "check_metric",
    "check_plugin",
]
