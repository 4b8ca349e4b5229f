"""The OpenVINO target: the same embeddings as onnxruntime's, bf16 behind the gate, and every message."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import mutants, towers
from support.bundles import TEXTS
from support.images import photo
from support.subjects import FAMILIES, subject

from icclip.bundles.manifest import TowerFiles, read_manifest, seal
from icclip.console import Reporter
from icclip.errors import CheckpointError, MissingExtraError, UsageError
from icclip.plugins.specs import OpenRequest
from icclip.report.hub_card import HubFacts, bundle_card
from icclip.runtime import Encoder
from icclip.testing import check_export_target
from icclip_export.gate.parity import check_precision, parity_record
from icclip_export.openvino.cpu import FLAGS, Cpu, computes, lacks, reason
from icclip_export.precisions import graph_name
from icclip_export.precisions import precision as find_precision

pytest.importorskip("openvino")
from icclip_export.openvino.encoder import OpenVinoEncoder
from icclip_export.openvino.session import open_session

IMAGES = [photo(w, h, seed=w) for w, h in ((50, 40), (32, 32), (20, 70), (300, 200))]
NAMES = ("fp32", "bf16")
PRECISIONS = (*NAMES, "int8")


def computes_bf16():
    return computes().has_bf16


needs_bf16 = pytest.mark.skipif(not computes_bf16(), reason="this CPU does not compute in bf16")


@pytest.fixture(scope="session")
def openvino_bundles(tmp_path_factory):
    """Family -> a bundle for OpenVINO, made without the exporter; and, of the same graphs, one for onnxruntime."""
    from support.bundles import tiny_clip, tiny_siglip, write_bundle

    root = tmp_path_factory.mktemp("openvino")
    for family, tiny in (("clip", tiny_clip()), ("siglip", tiny_siglip())):
        manifest = write_bundle(tiny, root / family)
        shutil.copytree(root / family, root / f"{family}-onnx")
        precisions = dict.fromkeys(NAMES, manifest.precisions["fp32"])
        seal(root / family, dataclasses.replace(manifest, runs_in="openvino", precisions=precisions))
    return root


@pytest.fixture
def opened(openvino_bundles):
    return lambda family="clip", precision=None, **options: OpenVinoEncoder.open(
        openvino_bundles / family, precision, threads=1, **options
    )


# Numbers


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_float32_gives_what_onnxruntime_gives(openvino_bundles, opened, family):
    ours, theirs = opened(family), Encoder.open(openvino_bundles / f"{family}-onnx", provider="cpu", threads=1)
    for size in (1, 3):
        images = [encoder.encode_images(IMAGES, batch_size=size) for encoder in (ours, theirs)]
        texts = [encoder.encode_texts(TEXTS, batch_size=size) for encoder in (ours, theirs)]
        np.testing.assert_allclose(*images, atol=1e-5)
        np.testing.assert_allclose(*texts, atol=1e-5)
    np.testing.assert_allclose(ours.rank(IMAGES[0], TEXTS), theirs.rank(IMAGES[0], TEXTS), rtol=1e-4)
    assert ours.precision == "fp32"
    assert ", openvino fp32, cpu, 1 threads" in ours.description


@needs_bf16
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_bf16_is_computed_and_near(opened, family):
    exact, rounded = opened(family, "fp32"), opened(family, "bf16")
    for known, found in (
        (exact.encode_images(IMAGES), rounded.encode_images(IMAGES)),
        (exact.encode_texts(TEXTS), rounded.encode_texts(TEXTS)),
    ):
        cosines = (known * found).sum(axis=1)
        assert cosines.min() > 0.999
        # Otherwise it was float32.
        assert np.abs(known - found).max() > 1e-4
    assert rounded.session("vision").elsewhere() is None
    assert dataclasses.replace(rounded.session("vision"), wanted="f32").elsewhere() == "bf16 instead of f32"


@needs_bf16
def test_precisions_of_the_same_graphs_are_different_encoders(opened):
    exact, rounded = opened(precision="fp32"), opened(precision="bf16")
    assert exact.fingerprint != rounded.fingerprint
    assert exact != rounded
    assert pickle.loads(pickle.dumps(rounded)) == rounded


def test_threads_share_one_encoder(opened):
    from concurrent.futures import ThreadPoolExecutor

    encoder = opened()
    alone = [encoder.encode_texts(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.encode_texts, list(TEXTS) * 5))
    for found, known in zip(together, alone * 5, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-6)


# The gate


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    """A briefly trained encoder with its bundle for OpenVINO in three precisions; what is untrained hides damage."""
    root = tmp_path_factory.mktemp(request.param) / "bundle"
    root.mkdir()
    made = subject(request.param, root)
    manifest = read_manifest(root)
    for tower in ("vision", "text"):
        find_precision("int8").recipe.build(root / graph_name(tower, "fp32"), root / graph_name(tower, "int8"), ())
    towers = {name: TowerFiles(vision=graph_name("vision", name), text=graph_name("text", name)) for name in PRECISIONS}
    seal(root, dataclasses.replace(manifest, runs_in="openvino", precisions=towers))
    return made


def gate(trained, bundle, precision, **limits):
    return check_precision(
        trained.reference,
        lambda name: OpenVinoEncoder.open(bundle, name, threads=1),
        precision,
        limits=dataclasses.replace(find_precision(precision).limits, **limits),
    )


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16), "int8"])
def test_the_gate_passes_what_is_right(trained, precision):
    # Of a few hundred near ties, rounding to bf16 decides some, and AMX rounds other sums than AVX-512; embeddings tell.
    result = gate(trained, trained.bundle, precision, drop_r1=0.05, drop_r5=0.05, drop_r10=0.05)
    assert result.passed, result.failures
    assert (result.precision, result.provider) == (precision, "cpu")


@needs_bf16
@pytest.mark.parametrize("name", ["weights rounded to 4 bits", "the other family's normalisation"])
def test_the_gate_sees_what_bf16_is_not(trained, tmp_path, name):
    bundle = shutil.copytree(trained.bundle, tmp_path / "bundle")
    if name.startswith("weights"):
        mutants.model_change("vision", mutants._round_to_bits(4))(trained, trained, bundle)
    else:
        mutants.other_familys_normalisation(trained, trained, bundle)
    result = gate(trained, bundle, "bf16")
    assert not result.passed
    assert any(failure.startswith("vision.") for failure in result.failures), result.failures


@needs_bf16
def test_the_gate_sees_float32_in_the_place_of_bf16(trained, monkeypatch):
    monkeypatch.setattr("icclip_export.openvino.session.OpenVinoSession.elsewhere", lambda self: "f32 instead of bf16")
    result = gate(trained, trained.bundle, "bf16")
    assert result.failures[0] == "vision.provider is 0, needs at least 1, at f32 instead of bf16"


# Export, and what reads the result


@needs_bf16
def test_every_command_takes_what_was_exported(icclip, registry, checkpoints, tmp_path):
    bundle = tmp_path / "bundle"
    done = icclip(
        "export", checkpoints["clip"], "-o", bundle, "--target", "openvino", "--precision", "fp32,bf16",
        "--dataset", "shapes", "--sample", 40, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [one["precision"] for one in json.loads(done.out)["parity"]["results"]] == ["fp32", "bf16"]
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["text_model.onnx", "vision_model.onnx"]
    assert read_manifest(bundle).runs_in == "openvino"
    assert icclip("verify", bundle, "--dataset", "shapes", "--json").code == 0
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        done = icclip("eval", bundle, "--precision", precision, "-o", out, "--dataset", "shapes", "--json")
        assert done.code == 0, done.err
        assert f", openvino {precision}, cpu, " in json.loads(done.out)["about"]["encoder"]
    (tmp_path / "texts.txt").write_text("a red square\n")
    done = icclip("embed", bundle, "--bf16", "--texts", tmp_path / "texts.txt", "-o", tmp_path / "e.npy", "--json")
    assert done.code == 0, done.err
    assert ", openvino bf16, cpu, " in json.loads(done.out)["encoder"]
    checks = check_export_target(registry.export_target("openvino"), bundle)
    assert {check.status for check in checks} == {"ok"}


@needs_bf16
def test_bf16_alone_keeps_the_graphs_that_it_runs(icclip, tmp_path):
    start = towers.assembled(icclip, tmp_path, towers.vit(), towers.bert(), "--projection-dim", 16)
    bundle = tmp_path / "bundle"
    options = ("--target", "openvino", "--bf16", "--dataset", "shapes", "--sample", 40)
    done = icclip("export", start, "-o", bundle, *options, "--json")
    assert done.code == 0, done.err
    assert list(read_manifest(bundle).precisions) == ["bf16"]
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["text_model.onnx", "vision_model.onnx"]
    assert icclip("verify", bundle).code == 0
    exact = dataclasses.replace(read_manifest(bundle), precisions={"fp32": read_manifest(bundle).precisions["bf16"]})
    seal(bundle, exact)
    ours = OpenVinoEncoder.open(bundle, threads=1)
    seal(bundle, dataclasses.replace(exact, runs_in="onnxruntime"))
    theirs = Encoder.open(bundle, provider="cpu", threads=1)
    np.testing.assert_allclose(ours.encode_images(IMAGES), theirs.encode_images(IMAGES), atol=1e-5)
    np.testing.assert_allclose(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS), atol=1e-5)


def test_the_card_says_how_to_use_it(openvino_bundles, trained):
    manifest = read_manifest(openvino_bundles / "clip")
    parity = parity_record(
        trained.reference, [gate(trained, trained.bundle, "fp32")], dataset="d", split="test", seed=0
    )
    card = bundle_card(manifest, parity, HubFacts(name="me/mine"))
    assert "Its graphs run in openvino, where they were measured." in card
    assert "icclip embed me/mine --precision fp32 --texts texts.txt" in card
    assert "onnxruntime" not in card
    assert "from icclip.runtime import Encoder" in bundle_card(
        dataclasses.replace(manifest, runs_in="onnxruntime"), parity, HubFacts(name="me/mine")
    )


# What cannot be done


def test_onnxruntime_does_not_open_it(icclip, openvino_bundles):
    with pytest.raises(UsageError, match=r"was exported to run in openvino, not in onnxruntime: evaluate") as caught:
        Encoder.open(openvino_bundles / "clip")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UsageError, match="was exported to run in onnxruntime, not in openvino"):
        OpenVinoEncoder.open(openvino_bundles / "clip-onnx")
    outcome = icclip("serve", openvino_bundles / "clip")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)


def test_a_bundle_for_a_library_without_a_target(icclip, openvino_bundles, tmp_path):
    bundle = shutil.copytree(openvino_bundles / "clip", tmp_path / "bundle")
    seal(bundle, dataclasses.replace(read_manifest(bundle), runs_in="abacus"))
    outcome = icclip("eval", bundle, "--dataset", "shapes")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "is a bundle that runs in abacus, for which no export target is installed" in outcome.err


@pytest.mark.parametrize(
    ("capabilities", "flags", "able"),
    [
        ({"FP32", "BF16"}, {"avx512f", "avx512_bf16"}, True),
        ({"FP32", "BF16"}, {"amx_bf16"}, True),
        ({"FP32", "BF16"}, set(), True),  # the system does not tell
        ({"FP32", "BF16"}, {"avx512f"}, False),  # emulated
        ({"FP32"}, {"avx2"}, False),
        ({"FP32"}, set(), False),
    ],
)
def test_whether_a_cpu_computes_bf16(capabilities, flags, able):
    cpu = Cpu("a CPU", frozenset(capabilities), frozenset(flags))
    assert lacks("fp32", cpu) is lacks("int8", cpu) is None
    if able:
        assert lacks("bf16", cpu) is None
    else:
        assert lacks("bf16", cpu) == (
            f"precision bf16 needs a CPU that computes in it ({', '.join(FLAGS)}), and a CPU does not: "
            "give --precision fp32, or export int8 with --target onnx"
        )


def test_bf16_on_another_cpu_is_one_line(icclip, monkeypatch, openvino_bundles, checkpoints, tmp_path):
    old = Cpu("an old CPU", frozenset({"FP32"}), frozenset({"avx2"}))
    monkeypatch.setattr("icclip_export.openvino.cpu.computes", lambda: old)
    for command in (
        ("eval", openvino_bundles / "clip", "--bf16", "--dataset", "shapes"),
        ("export", checkpoints["clip"], "-o", tmp_path / "b", "--target", "openvino", "--bf16", "-d", "shapes"),
    ):
        outcome = icclip(*command)
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert "precision bf16 needs a CPU that computes in it" in outcome.err
    assert not list(tmp_path.iterdir())


def test_other_providers_and_precisions_are_refused(icclip, opened, openvino_bundles, checkpoints, tmp_path):
    with pytest.raises(
        UsageError, match="provider cuda is onnxruntime's, and OpenVINO runs on the CPU: leave out --provider"
    ):
        opened(provider="cuda")
    outcome = icclip("eval", openvino_bundles / "clip", "--fp16", "--dataset", "shapes")
    assert outcome.code == 2
    assert "unknown precision 'fp16'" in outcome.err
    for target, precision in (("openvino", "fp16"), ("openvino", "int8"), ("onnx", "bf16")):
        outcome = icclip(
            "export", checkpoints["clip"], "-o", tmp_path / "b", "--target", target, "--precision", precision, "-d", "shapes"
        )  # fmt: skip
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert f"unknown precision '{precision}'" in outcome.err
        assert f"of the target '{target}'" in outcome.err


def test_without_openvino_one_line_says_what_to_install(icclip, monkeypatch, openvino_bundles, checkpoints, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("icclip_export.openvino.cpu.core", lambda: pytest.fail("used"))
    request = OpenRequest(path=openvino_bundles / "clip", precision="bf16", reporter=Reporter(silent=True))
    from icclip_export.openvino import target

    monkeypatch.setattr("icclip_export.openvino.cpu.core", target.import_openvino)
    with pytest.raises(
        MissingExtraError, match=r"needs openvino, not installed here: pip install 'icclip\[openvino\]'"
    ):
        target.open_bundle(request)
    outcome = icclip(
        "export", checkpoints["clip"], "-o", tmp_path / "b", "--target", "openvino", "--dataset", "shapes"
    )  # fmt: skip
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert "pip install 'icclip[export,openvino]'" in outcome.err
    listed = json.loads(icclip("plugins", "list", "--json").out)
    assert "openvino" in json.dumps(listed)
    (finding,) = [one for one in _findings(icclip) if one["area"] == "targets"]
    assert (finding["status"], finding["detail"]) == ("absent", "not installed: pip install 'icclip[openvino]'")


def _findings(icclip):
    return json.loads(icclip("doctor", "--json").out)["findings"]


def test_doctor_says_what_it_computes(icclip):
    (finding,) = [one for one in _findings(icclip) if one["area"] == "targets"]
    assert (finding["name"], finding["status"]) == ("openvino", "ok")
    assert finding["detail"].startswith("OpenVINO 20")
    assert ("bf16" in finding["detail"]) is computes_bf16()


def test_a_cpu_that_openvino_cannot_use(monkeypatch):
    class Core:
        def get_property(self, device, key):
            raise RuntimeError(
                "Exception from src/core.cpp:76:\nCheck 'found' failed at src/core.cpp:77:\nno CPU plugin"
            )

    monkeypatch.setattr("icclip_export.openvino.cpu.core", Core)
    with pytest.raises(UsageError, match=r"^OpenVINO cannot use this CPU: no CPU plugin: export with --target onnx"):
        computes()
    assert reason(RuntimeError("Exception from a.cpp:1:")) == "Exception from a.cpp:1:"
    assert reason(RuntimeError()) == "RuntimeError"


def test_damaged_graphs_and_inputs_are_one_line(openvino_bundles, opened, tmp_path):
    io = read_manifest(openvino_bundles / "clip").vision_io
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"OpenVINO cannot open .*broken\.onnx"):
        open_session(tmp_path / "broken.onnx", io, "fp32", threads=1)
    graph = openvino_bundles / "clip" / "onnx" / "vision_model.onnx"
    with pytest.raises(CheckpointError, match="takes pixel_values and gives image_embeds, but expected pixels"):
        open_session(graph, dataclasses.replace(io, input="pixels"), "fp32", threads=1)
    with pytest.raises(CheckpointError, match="but expected pixel_values and vectors: export the checkpoint again"):
        open_session(graph, dataclasses.replace(io, output="vectors"), "fp32", threads=1)
    session = opened().session("vision")
    with pytest.raises(CheckpointError, match=r"cannot run on pixel_values of shape \(1, 3, 7, 7\)") as caught:
        session.run(np.zeros((1, 3, 7, 7), np.float32))
    assert len(str(caught.value).splitlines()) == 1


FORKED = """
import os, sys
from icclip_export.openvino.encoder import OpenVinoEncoder
from icclip.errors import UsageError
encoder = OpenVinoEncoder.open(sys.argv[1], "fp32", threads=1)
encoder.encode_texts("before")
child = os.fork()
if child == 0:
    try:
        encoder.encode_texts("in the child")
    except UsageError as error:
        print(error)
        sys.stdout.flush()
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
encoder.encode_texts("after")
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_opening_needs_no_torch_and_a_fork_after_it_is_refused(openvino_bundles):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, openvino_bundles / "clip"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("this encoder was opened on OpenVINO before this process was forked")
    assert lines[1:] == ["7"]
