from __future__ import annotations

import json

import pytest

import icclip as package
from icclip.data.loading import load_image_text_dataset


@pytest.fixture
def parts(run_directory, photos):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(run_directory)
    processor = AutoProcessor.from_pretrained(run_directory)
    return model, processor, load_image_text_dataset(str(photos), val_fraction=0.2, seed=3)["test"]


def test_the_seed_projects_call_gives_what_the_command_gives(icclip, parts, run_directory):
    model, processor, split = parts
    metrics = package.compute_retrieval_metrics(model, processor, split, "cpu", eval_image_bs=5, eval_text_bs=256)
    printed = json.loads(icclip("eval", run_directory, "--json").out)
    del printed["about"]
    assert metrics == printed


def test_rows_that_are_not_decoded_are_read_alike(parts):
    from datasets import Image

    model, processor, split = parts
    encoded = split.cast_column("image", Image(decode=False))
    assert package.compute_retrieval_metrics(model, processor, encoded, "cpu") == package.compute_retrieval_metrics(
        model, processor, split, "cpu"
    )


def test_the_seed_projects_options_change_nothing(parts):
    plain = package.compute_retrieval_metrics(*parts, "cpu")
    with pytest.warns(DeprecationWarning, match=r"is_siglip is ignored") as caught:
        metrics = package.compute_retrieval_metrics(
            *parts, "cpu", is_siglip=True, stream_if_products_over=1, chunk_size_text=3, chunk_size_image=5
        )
    assert metrics == plain
    assert caught[0].filename == __file__


def test_an_unknown_argument_is_refused(parts):
    with pytest.raises(TypeError, match="unexpected arguments: batch_size"):
        package.compute_retrieval_metrics(*parts, "cpu", batch_size=3)
