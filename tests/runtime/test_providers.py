from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from icclip.errors import MissingExtraError, UnknownNameError, UsageError
from icclip.runtime import providers as p

BROKEN = p.Failure("its libraries are missing", installed=True)
ABSENT = p.Failure("built without it", installed=False)


def choose(wanted=None, **failures):
    return p.choose(wanted, failures.get)


def test_the_first_that_works_runs_and_the_others_are_told():
    assert choose() == p.Choice("tensorrt", {})
    choice = choose(tensorrt=ABSENT, cuda=BROKEN)
    assert choice.provider == "cpu"
    assert choice.notes == ("tensorrt is not used: built without it",)
    assert choice.warnings == ("cuda is not used: its libraries are missing",)
    assert choose(tensorrt=BROKEN).provider == "cuda"


def test_a_forced_provider_never_becomes_another():
    assert choose("cuda", tensorrt=BROKEN).provider == "cuda"
    with pytest.raises(
        UsageError, match=r"provider cuda is not available \(cuda: its libraries.*pip install 'icclip\[onnx-gpu\]'"
    ):
        choose("cuda", cuda=BROKEN)
    with pytest.raises(UsageError, match=r"provider tensorrt is not available.*pip install 'icclip\[tensorrt\]'"):
        choose("tensorrt", tensorrt=ABSENT)


def test_none_at_all():
    with pytest.raises(UsageError, match="provider any is not available"):
        choose(tensorrt=ABSENT, cuda=ABSENT, cpu=BROKEN)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_this_machine_has_the_cpu_alone():
    choice = p.choose_provider()
    assert choice.provider == "cpu"
    assert set(choice.rejected) == {"tensorrt", "cuda"}
    with pytest.raises(UsageError, match=r"this onnxruntime \(.*\) was built without it"):
        p.choose_provider("cuda")


def test_an_unknown_provider_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown provider 'gpu'.*cpu, cuda, tensorrt"):
        p.choose_provider("gpu")


class FallsBack:
    """An onnxruntime that lists CUDA and then runs on the CPU, as the GPU build does without a GPU."""

    __version__ = "1.31.1"
    SessionOptions = onnxruntime.SessionOptions

    @staticmethod
    def get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    @staticmethod
    def InferenceSession(model, options, providers, enable_fallback):  # noqa: N802  onnxruntime's name
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Raises(FallsBack):
    @staticmethod
    def InferenceSession(model, options, providers, enable_fallback):  # noqa: N802  onnxruntime's name
        raise RuntimeError("CUDA failure 35\nframe 1\nframe 2")


def test_a_silent_fall_back_is_noticed():
    assert p._failure(FallsBack, "cpu") is None
    why = p._failure(FallsBack, "cuda")
    assert why.installed
    assert why.reason == "its libraries or a GPU are missing; onnxruntime fell back to CPUExecutionProvider"


def test_an_error_of_onnxruntime_is_one_line():
    assert p._failure(Raises, "cuda") == p.Failure("CUDA failure 35", installed=True)


def test_the_probe_is_one_plus_one():
    session = onnxruntime.InferenceSession(p._PROBE, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.float32([1.5])})[0].tolist() == [3.0]


def test_an_old_onnxruntime_is_refused():
    p.check_version("1.20.0")
    p.check_version("2.0.0+dev")
    with pytest.raises(UsageError, match=r"onnxruntime 1.9.0 is too old: pip install --upgrade 'onnxruntime>=1.20'"):
        p.check_version("1.9.0")


def test_no_onnxruntime_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"running a bundle needs onnxruntime.*pip install 'icclip\[onnx\]'"):
        p.import_onnxruntime()


def test_two_builds_at_once_are_a_warning():
    assert "1.0" in p.clashing_runtimes(lambda name: "1.0")
    assert p.clashing_runtimes(lambda name: "1.0").startswith("onnxruntime 1.0 and onnxruntime-gpu 1.0 are both")

    def only_cpu(name):
        if name != "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    assert p.clashing_runtimes(only_cpu) is None
    assert p.Choice("cpu", {}, "both").warnings == ("both",)


def test_options_of_cuda():
    assert p.cuda_options() == {"device_id": "0", "use_tf32": "1"}
    assert p.cuda_options(device=1, tf32=False) == {"device_id": "1", "use_tf32": "0"}


def test_options_of_tensorrt():
    profile = p.ShapeProfile(input="input_ids", minimum=(1, 2), optimum=(32, 39), maximum=(128, 77))
    options = p.tensorrt_options([profile], Path("cache"))
    assert options == {
        "device_id": "0",
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": "cache",
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": "cache",
        "trt_fp16_enable": "0", "trt_layer_norm_fp32_fallback": "0",
        "trt_profile_min_shapes": "input_ids:1x2",
        "trt_profile_opt_shapes": "input_ids:32x39",
        "trt_profile_max_shapes": "input_ids:128x77",
    }  # fmt: skip
    more = p.tensorrt_options([profile, profile], Path("cache"), fp16=True, context=Path("engine.onnx"))
    assert more["trt_fp16_enable"] == more["trt_layer_norm_fp32_fallback"] == more["trt_dump_ep_context_model"] == "1"
    assert more["trt_ep_context_file_path"] == "engine.onnx"
    assert more["trt_profile_max_shapes"] == "input_ids:128x77,input_ids:128x77"
