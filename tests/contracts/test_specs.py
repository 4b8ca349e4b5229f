"""The conformance kit over every spec that comes with icclip: backends, datasets, metrics and export targets."""

from __future__ import annotations

import pytest
from support.foreign import write_checkpoint
from support.sources import SOURCES

from icclip.config import DatasetConfig, ModelConfig
from icclip.models.opening import open_model
from icclip.plugins.registry import DEFAULT_PLUGINS, Registry
from icclip.plugins.specs import BackendSpec, DatasetSpec, ExportTargetSpec, IndexTargetSpec, MetricSpec
from icclip.testing import (
    check_backend,
    check_dataset,
    check_export_target,
    check_index_target,
    check_metric,
    check_plugin,
)

REGISTRY = Registry(load_plugins=frozenset())
CAPTIONS = ["a small red square", "two large blue circles, on grass"] * 8


def statuses(checks):
    return {check.status for check in checks}


@pytest.mark.parametrize("module", DEFAULT_PLUGINS)
def test_every_plugin_loads_light(module):
    """Its specs have tests of their own below, with what they need to be loaded."""
    plugin = next(p for p in REGISTRY.built_in if p.module == module)
    assert plugin.specs or plugin.commands
    assert plugin.errors == ()


def test_the_kit_takes_a_whole_plugin():
    assert statuses(check_plugin("icclip_export.plugin")) == {"ok", "skipped"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY.names(BackendSpec))
def test_backends(name, tmp_path):
    spec = REGISTRY.backend(name)
    if spec.presets:
        config = ModelConfig(name=spec.presets[0].name, image_resize=32)
        open_model(REGISTRY, config, lambda: CAPTIONS).save(tmp_path / "model")
    else:
        write_checkpoint(tmp_path / "model")
    assert statuses(check_backend(spec, str(tmp_path / "model"))) == {"ok"}


@pytest.mark.parametrize("name", REGISTRY.names(DatasetSpec))
def test_datasets(name, tmp_path):
    write = SOURCES[name]
    path = None
    if write is not None:
        write(tmp_path / "source")
        path = str(tmp_path / "source")
    assert statuses(check_dataset(REGISTRY.dataset(name), DatasetConfig(name=name, path=path))) == {"ok"}


@pytest.mark.parametrize("name", REGISTRY.names(MetricSpec))
def test_metrics(name):
    assert statuses(check_metric(REGISTRY.metric(name))) == {"ok"}


@pytest.mark.parametrize("name", REGISTRY.names(IndexTargetSpec))
def test_index_targets(name):
    pytest.importorskip(name)
    assert statuses(check_index_target(REGISTRY.index_target(name))) == {"ok"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """What the target onnx wrote."""
    from icclip.config import EncoderConfig, ExportConfig
    from icclip.console import Reporter
    from icclip.exporting.request import ExportRequest

    root = tmp_path_factory.mktemp("exported")
    open_model(REGISTRY, ModelConfig(name="clip-tiny", image_resize=32), lambda: CAPTIONS).save(root / "model")
    config = ExportConfig(
        encoder=EncoderConfig(checkpoint=str(root / "model")),
        output_dir=root / "bundle",
        data=DatasetConfig(name="shapes"),
        sample=16,
    )
    request = ExportRequest(config=config, registry=REGISTRY, reporter=Reporter(silent=True))
    REGISTRY.export_target("onnx").export(request)
    return root / "bundle"


@pytest.mark.slow
def test_the_onnx_target(bundle):
    assert statuses(check_export_target(REGISTRY.export_target("onnx"), bundle)) == {"ok"}


def test_the_tensorrt_target():
    """Opening takes a GPU; tests/export/test_tensorrt.py does that where there is one."""
    checks = check_export_target(REGISTRY.export_target("tensorrt"))
    assert [check.what for check in checks if check.status == "skipped"] == ["opens what it wrote"]


def test_every_target_is_covered():
    assert REGISTRY.names(ExportTargetSpec) == ["onnx", "tensorrt", "openvino"]
