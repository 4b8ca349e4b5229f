"""The documented way from a program's own data to vectors."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image
from support.images import photo

import icclip as package
from icclip.errors import ConfigError, DataError


@pytest.fixture
def splits(tmp_path):
    """Three splits whose images are files: what is written must not need them any more."""
    rows = {}
    for split, count in (("train", 8), ("validation", 4), ("test", 4)):
        folder = tmp_path / "photos" / split
        folder.mkdir(parents=True)
        for number in range(count):
            photo(40, 32, seed=number).save(folder / f"{number}.png")
        paths = sorted(map(str, folder.iterdir()))
        captions = [[f"photo {n} of {split}", f"the {n}th"] for n in range(count)]
        rows[split] = Dataset.from_dict({"image": paths, "captions": captions}).cast_column("image", Image())
    return DatasetDict(rows)


def test_a_dataset_in_memory_trains_and_its_run_encodes(splits, tmp_path):
    run = tmp_path / "run"
    result = package.train(
        "clip-tiny", splits, run, max_steps=1, train_bs=4, device="cpu", workers=0, report_to=(), guard="off",
        training_args={"save_only_model": "true"},
    )  # fmt: skip
    assert (result.steps, result.output_dir) == (1, run)
    assert result.test["n_images"] == 4
    assert result.test["n_texts"] == 8

    encoder = package.open_encoder(run, device="cpu")
    images = encoder.encode_images([photo(40, 32), photo(64, 64, seed=1)])
    texts = encoder.encode_texts(["photo 0 of test"])
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    assert images.shape == (2, texts.shape[1])


def test_a_saved_dataset_holds_its_images(splits, tmp_path):
    directory = package.save_dataset(splits, tmp_path / "saved")
    first = splits["train"][0]["image"].convert("RGB").tobytes()
    for file in (tmp_path / "photos").rglob("*.png"):
        file.unlink()
    again = package.load_image_text_dataset(str(directory))
    assert {name: len(split) for name, split in again.items()} == {"train": 8, "validation": 4, "test": 4}
    assert again["train"][0]["captions"] == ["photo 0 of train", "the 0th"]
    assert again["train"].cast_column("image", Image())[0]["image"].convert("RGB").tobytes() == first


def test_a_split_of_another_name_is_refused_before_anything_is_written(splits, tmp_path):
    with pytest.raises(DataError, match="rename holdout to one of"):
        package.save_dataset(DatasetDict({"train": splits["train"], "holdout": splits["test"]}), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_unknown_option_is_named(splits, tmp_path):
    with pytest.raises(ConfigError, match="epoch"):
        package.train("clip-tiny", splits, tmp_path / "run", epoch=3)
