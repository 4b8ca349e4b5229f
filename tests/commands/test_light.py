"""Every command with the base dependencies alone: it works, or one line says what to install."""

from __future__ import annotations

import json

import pytest
from support.bundles import tiny_clip, write_bundle
from support.images import photo
from support.light import HIDDEN, run_light

from icclip.bundles.manifest import seal
from icclip.bundles.parity_record import ParityRecord, PrecisionParity, Thresholds, write_parity
from icclip.extras import INSTALL, missing_extra
from icclip.reference import commands

TRAIN = ("train", "--model", "clip-tiny", "--output-dir", "run", "--dataset")
WORKS = (
    ("--help",),
    ("--version",),
    ("plugins", "list"),
    ("cache", "list"),
    ("config", "--help"),
    ("eval", "--help"),
    ("train", "--help"),
    ("compare", "--help"),
    ("report", "--help"),
    ("plot", "--help"),
    ("sagemaker", "--help"),
    ("sagemaker", "package", "bundle", "-o", "package"),
    ("push", "bundle", "me/bundle", "--dry-run"),
)
NEEDS = (
    (*TRAIN, "shapes"),
    (*TRAIN, "captions.jsonl"),
    ("eval", "bundle", "--dataset", "shapes"),
    ("eval", "model", "--dataset", "shapes"),
    ("embed", "bundle", "--dataset", "shapes", "-o", "x.npy"),
    ("embed", "model", "--dataset", "shapes", "-o", "x.npy"),
    ("export", "model", "--dataset", "shapes", "-o", "y"),
    ("verify", "bundle"),
    ("config", "show", "--model", "clip-tiny", "--dataset", "shapes"),
    ("blend", "run", "--with", "other", "--dataset", "shapes", "-o", "mix"),
    ("data", "inspect", "shapes"),
    ("assemble", "--vision", "model", "--text", "other", "-o", "pair"),
    ("quickstart",),
    ("sagemaker", "delete", "--endpoint", "photos"),
    ("index", "bundle", "--images", "a.png", "-o", "z"),
    ("search", "z", "a dog"),
    ("serve", "bundle"),
)
WITHOUT_TORCH = tuple(name for name in HIDDEN if name not in {"datasets", "pandas", "pyarrow"})


def write_gated(bundle):
    """A bundle that says that it went through the gate."""
    manifest = write_bundle(tiny_clip(), bundle)
    limits = Thresholds(min_cosine=0.9, drop_r1=0.1, drop_r5=0.1, drop_r10=0.1)
    result = PrecisionParity(precision="fp32", provider="cpu", passed=True, thresholds=limits, metrics={})
    about = {"dataset": "shapes", "split": "test", "n_images": 1, "n_texts": 1, "smoke": True, "reference": {}}
    write_parity(bundle, ParityRecord(**about, results=(result,)))
    return manifest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a bundle, something that looks like a checkpoint and two runs, and a file of captions."""
    root = tmp_path_factory.mktemp("light")
    seal(root / "bundle", write_gated(root / "bundle"))
    for name in ("model", "run", "other"):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"model_type": "clip"}))
    photo(8, 8).save(root / "a.png")
    (root / "captions.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a"}) + "\n")
    return root


@pytest.mark.parametrize("arguments", WORKS, ids=" ".join)
def test_what_needs_no_extra_works(place, arguments):
    result = run_light(place, *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", NEEDS, ids=" ".join)
def test_what_needs_an_extra_says_in_one_line_how_to_install_it(place, arguments):
    result = run_light(place, *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "not installed here: pip install" in line


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("eval", "model", "--dataset", "shapes"), "pip install 'icclip[train]'"),
        (("embed", "model", "--dataset", "shapes", "-o", "x.npy"), "pip install 'icclip[train]'"),
        (("eval", "bundle", "--dataset", "shapes"), "pip install 'icclip[onnx]'"),
        (TRAIN[:1] + TRAIN[1:] + ("shapes",), "pip install 'icclip[train]'"),
    ],
)
def test_with_datasets_but_without_torch_and_onnxruntime(place, arguments, command):
    result = run_light(place, *arguments, hidden=WITHOUT_TORCH)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("error: ") == 1
    assert command in result.stderr


def test_every_command_is_tried():
    names = {name.partition(" ")[0] for name in commands()}
    # `doctor` has a test of its own below.
    assert names == {arguments[0] for arguments in (*WORKS, *NEEDS) if arguments[0][0] != "-"} | {"doctor"}


def test_doctor_says_what_is_missing_without_a_traceback(place):
    result = run_light(place, "doctor")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "onnxruntime" in result.stderr


def test_a_module_of_no_extra_is_a_fault_of_ours():
    assert missing_extra(ModuleNotFoundError("no", name="icclip.nothing"), "icclip train") is None
    assert missing_extra(ModuleNotFoundError("no"), "icclip train") is None


@pytest.mark.parametrize("module", INSTALL)
def test_a_part_of_an_extra_names_the_whole(module):
    error = missing_extra(ModuleNotFoundError("no", name=f"{module}.part"), "icclip train")
    assert str(error) == f"icclip train needs {module}, not installed here: {INSTALL[module]}"
