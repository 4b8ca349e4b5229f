from __future__ import annotations

import json
import logging
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.bundles import TEXTS
from support.images import photo

from icclip.bundles import manifest as m
from icclip.console import Reporter
from icclip.errors import CheckpointError, DataError, UnknownNameError, UsageError
from icclip.plugins.specs import Encoder as EncoderProtocol
from icclip.runtime import Encoder
from icclip.runtime.encoder import EncoderOptions
from icclip.runtime.providers import Choice, Failure
from icclip.runtime.scoring import probabilities
from icclip.runtime.sessions import open_session


@pytest.fixture(scope="module")
def images():
    return [photo(w, h, seed=h) for w, h in ((40, 30), (30, 90), (200, 33), (32, 32), (7, 5))]


@pytest.fixture
def encoder(bundle):
    return Encoder.open(bundle, provider="cpu")


def rewrite(root, graph, change):
    """Change a graph of a bundle, and seal it again: only its behaviour can tell."""
    model = onnx.load(root / graph)
    change(model.graph)
    onnx.save(model, root / graph)
    m.seal(root, m.read_manifest(root))


def scale_output(factor):
    def change(graph):
        name = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["before" if o == name else o for o in node.output]
        graph.initializer.append(onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [factor]))
        graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [name]))

    return change


def test_the_same_embeddings_as_the_checkpoint(encoder, tiny, images):
    assert isinstance(encoder, EncoderProtocol)
    embedded, texts = encoder.encode_images(images), encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(embedded, tiny.image_embeddings(images), atol=1e-5)
    np.testing.assert_allclose(texts, tiny.text_embeddings(TEXTS), atol=1e-5)
    assert embedded.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_change_nothing(encoder, images, size):
    np.testing.assert_allclose(encoder.encode_images(images, batch_size=size), encoder.encode_images(images), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS, batch_size=size), encoder.encode_texts(TEXTS), atol=1e-6)


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, encoder.manifest.embedding_dim)


def test_rank_is_the_models_own(encoder, tiny, images):
    cosines = tiny.text_embeddings(TEXTS) @ tiny.image_embeddings(images[:1])[0]
    logits = cosines * np.exp(tiny.model.logit_scale.item())
    if tiny.loss == "sigmoid":
        expected = 1 / (1 + np.exp(-(logits + tiny.model.logit_bias.item())))
    else:
        expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(encoder.rank(images[0], TEXTS), expected, atol=1e-5)


def test_probabilities_by_hand(encoder):
    import dataclasses

    softmax = dataclasses.replace(encoder.manifest, loss="softmax", logit_scale=np.log(2), logit_bias=None)
    np.testing.assert_allclose(probabilities(np.log([1.0, 2.0]), softmax), [0.2, 0.8], rtol=1e-6)
    sigmoid = dataclasses.replace(softmax, loss="sigmoid", logit_scale=0.0, logit_bias=-1.0)
    np.testing.assert_allclose(probabilities(np.array([1.0, 1 + np.log(3)]), sigmoid), [0.5, 0.75], rtol=1e-6)
    tiny_chance = dataclasses.replace(sigmoid, logit_bias=-50.0)
    np.testing.assert_allclose(probabilities(np.zeros(1), tiny_chance), [np.exp(-50)], rtol=1e-6)


def test_many_threads_at_once_get_their_own_results(encoder, images):
    alone = [encoder.encode_images([image])[0] for image in images]
    texts = encoder.encode_texts(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda i: (encoder.encode_images([images[i % 5]])[0], encoder.encode_texts(TEXTS)), range(40))
        )
    for i, (image, own_texts) in enumerate(made):
        np.testing.assert_allclose(image, alone[i % 5], atol=1e-6)
        np.testing.assert_allclose(own_texts, texts, atol=1e-6)


def test_a_tower_is_loaded_when_used_and_once(bundle):
    encoder = Encoder.open(bundle, provider="cpu")
    encoder.encode_texts(TEXTS)
    assert set(encoder._shared.sessions) == {"text"}
    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(lambda _: encoder.session("vision"), range(16))))) == 1


def test_io_binding_gives_the_same(encoder, images):
    pixels = encoder.preprocessor(images)
    session = encoder.session("vision")
    np.testing.assert_array_equal(session.run_bound(pixels), session.run(pixels))


def test_the_threads_of_one_tower_stop_spinning_for_the_other(encoder):
    for tower in ("vision", "text"):
        options = encoder.session(tower).session.get_session_options()
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_giving_scratch_memory_back_changes_nothing(encoder, images):
    pixels = encoder.preprocessor(images * 4)
    session = encoder.session("vision")
    np.testing.assert_array_equal(session.run(pixels, last=True), session.run(pixels, last=False))


def test_the_description_says_what_runs_where(bundle, tiny):
    encoder = Encoder.open(bundle, provider="cpu", threads=1)
    assert encoder.description == f"{tiny.model.config.model_type}, 0.0 M parameters, onnx fp32, cpu, 1 threads"
    assert encoder.notes == ()


def test_what_is_installed_and_broken_is_never_silent(bundle, encoder, caplog, capsys):
    choice = Choice("cpu", {"cuda": Failure("no GPU", installed=True), "tensorrt": Failure("absent", installed=False)})
    options = EncoderOptions("fp32", 1, verify_hashes=True, tf32=True, engines=bundle)
    with caplog.at_level(logging.WARNING):
        Encoder(bundle, encoder.manifest, choice, options)._say_what_was_chosen()
    assert caplog.messages == ["cuda is not used: no GPU"]
    Encoder(bundle, encoder.manifest, choice, options, Reporter())._say_what_was_chosen()
    said = capsys.readouterr().err
    assert "warning: cuda is not used: no GPU" in said
    assert "tensorrt is not used: absent" in said


def test_unknown_precision_and_broken_images(bundle, encoder):
    with pytest.raises(UnknownNameError, match="unknown precision 'int4'"):
        Encoder.open(bundle, "int4")
    with pytest.raises(DataError, match="image 1"):
        encoder.encode_images([photo(9, 9), b"?"])


def test_a_truncated_graph_is_found_on_opening_and_a_swapped_one_on_use(fresh):
    vision = fresh / "onnx/vision_model.onnx"
    content = bytearray(vision.read_bytes())
    vision.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"vision_model.onnx has \d+ bytes instead of"):
        Encoder.open(fresh)
    content[len(content) // 2] ^= 1
    vision.write_bytes(content)
    encoder = Encoder.open(fresh)
    encoder.encode_texts(["still good"])
    with pytest.raises(CheckpointError, match=r"its sha256 differs"):
        encoder.encode_images([photo(9, 9)])


def test_a_stale_tokenizer_is_found(fresh):
    path = fresh / "tokenizer.json"
    path.write_text(path.read_text().replace("a", "b", 1))
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not the file"):
        Encoder.open(fresh).encode_texts(["a"])


@pytest.mark.parametrize("factor", [0.0, float("inf"), float("nan")])
def test_zero_and_non_finite_embeddings_are_refused(fresh, factor):
    rewrite(fresh, "onnx/text_model.onnx", scale_output(factor))
    with pytest.raises(CheckpointError, match=r"\(text, fp32, cpu\) gives an embedding that is zero or not finite"):
        Encoder.open(fresh, provider="cpu").encode_texts(["a"])


def test_the_length_is_brought_to_one_in_float32(fresh, bundles):
    rewrite(fresh, "onnx/text_model.onnx", scale_output(6e4))
    expected = Encoder.open(bundles["clip"]).encode_texts(TEXTS)
    np.testing.assert_allclose(Encoder.open(fresh).encode_texts(TEXTS), expected, atol=1e-6)


def test_embeddings_of_another_width_are_refused(fresh):
    values = json.loads((fresh / m.NAME).read_text())
    values |= {"embedding_dim": 7, "digest": None}
    (fresh / m.NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"which is not what icclip.json says \(16 instead of 7\)"):
        Encoder.open(fresh).encode_texts(["a"])


def test_graphs_that_are_none_or_have_other_names(fresh):
    io = m.TowerIO(input="pixels", output="image_embeds")
    with pytest.raises(
        CheckpointError, match="takes pixel_values and gives image_embeds, but expected pixels and image_embeds"
    ):
        open_session(fresh / "onnx/vision_model.onnx", io, "cpu", threads=1)
    with pytest.raises(CheckpointError, match=r"onnxruntime cannot open .*texts.json on cpu: "):
        open_session(fresh / "golden/texts.json", io, "cpu", threads=1)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")  # onnxruntime's own, before it falls back
def test_a_session_that_falls_back_is_refused(fresh):
    manifest = m.read_manifest(fresh)
    with pytest.raises((UsageError, CheckpointError), match="cuda"):
        open_session(fresh / "onnx/vision_model.onnx", manifest.vision_io, "cuda", threads=1)


def test_a_fixed_length_is_enforced_by_the_graph(bundles):
    session = Encoder.open(bundles["siglip"], provider="cpu").session("text")
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(np.zeros((1, 9), np.int64))


@pytest.mark.parametrize(
    ("provider", "key"), [("cpu", None), ("cuda", "use_tf32"), ("tensorrt", "trt_profile_max_shapes")]
)
def test_options_follow_the_provider(bundle, encoder, provider, key, tmp_path):
    options = EncoderOptions("fp32", 1, verify_hashes=True, tf32=False, engines=tmp_path / "a" / "engines")
    made = Encoder(bundle, encoder.manifest, Choice(provider, {}), options)._provider_options("vision")
    assert (key in made) if key else made == {}
    if provider == "tensorrt":
        # onnxruntime makes the last directory only.
        assert Path(made["trt_engine_cache_path"]).is_dir()
        assert Path(made["trt_engine_cache_path"]).parent == tmp_path / "a" / "engines"


def test_engines_lie_beside_the_bundle_unless_said_otherwise(bundle, tmp_path):
    assert Encoder.open(bundle, provider="cpu").options.engines == bundle.with_name(f"{bundle.name}-tensorrt")
    assert Encoder.open(bundle, provider="cpu", engines=tmp_path).options.engines == tmp_path


def test_tensorrt_batches_fit_the_engine(bundle, encoder):
    options = EncoderOptions("fp32", 1, verify_hashes=True, tf32=False, engines=bundle)
    tensorrt = Encoder(bundle, encoder.manifest, Choice("tensorrt", {}), options)
    assert (tensorrt._batch(256, 32), tensorrt._batch(None, 256), tensorrt._batch(64, 32)) == (128, 128, 64)


RUN = """
import sys
{guard}
from icclip.runtime import Encoder
encoder = Encoder.open(sys.argv[1])
import numpy as np
np.save(sys.argv[2], np.concatenate([encoder.encode_images([sys.argv[3]]), encoder.encode_texts(["a red square"])]))
assert not {{"torch", "transformers", "datasets", "pandas"}} & set(sys.modules)
"""
GUARD = """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "accelerate", "optimum", "onnx", "pyarrow"}:
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Refuse())
"""


def check_torch_free(python, bundle, tiny, tmp_path, *, guard, root):
    image = bundle / "golden/000.png"
    command = [python, "-c", RUN.format(guard=guard), bundle, tmp_path / "out.npy", image]
    subprocess.run([str(part) for part in command], check=True, env={"PYTHONPATH": str(root)}, timeout=120)
    from PIL import Image

    expected = [tiny.image_embeddings([Image.open(image)]), tiny.text_embeddings(["a red square"])]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.concatenate(expected), atol=1e-5)


def test_it_runs_where_torch_and_transformers_cannot_be_imported(bundle, tiny, tmp_path, pytestconfig):
    check_torch_free(sys.executable, bundle, tiny, tmp_path, guard=GUARD, root=pytestconfig.rootpath)


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory, pytestconfig):
    """An environment with the base dependencies and onnxruntime alone."""
    import tomllib

    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    root = tmp_path_factory.mktemp("clean")
    venv.create(root, with_pip=True, symlinks=True)
    needed = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    command = [root / "bin/python", "-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "20", *needed]
    installed = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, timeout=500
    )
    if installed.returncode:
        pytest.skip(f"pip cannot install here: {installed.stderr.strip().splitlines()[-1:]}")
    return root / "bin/python"


@pytest.mark.slow
def test_it_runs_where_torch_and_transformers_are_not_installed(clean_python, bundle, tiny, tmp_path, pytestconfig):
    find = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'datasets') if u.find_spec(n)])"
    found = subprocess.run([str(clean_python), "-c", find], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    check_torch_free(clean_python, bundle, tiny, tmp_path, guard="", root=pytestconfig.rootpath)
