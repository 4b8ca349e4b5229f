"""Embed images with Daft: `python embed_daft.py MODEL FOLDER OUTPUT`, with `pip install daft 'icclip[onnx]'`.

The callable is the one that icclip's own workers run: it is pickled without the model, which each worker opens once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import daft

from icclip.embedding.worker import EmbedImages


def embedded(model: str, folder: Path, *, batch_size: int = 32) -> daft.DataFrame:
    """A table with the columns `name`, `embedding` (a list of float32, or null) and `error` (null, or why there is none)."""
    embed = EmbedImages(model, batch_size=batch_size)
    kind = daft.DataType.struct(
        {"embedding": daft.DataType.list(daft.DataType.float32()), "error": daft.DataType.string()}
    )

    @daft.func.batch(return_dtype=kind, batch_size=batch_size * 8)
    def embed_column(names: daft.Series, contents: daft.Series) -> list[dict[str, object]]:
        made = embed({"name": names.to_pylist(), "content": contents.to_pylist()})
        rows = zip(made["embedding"], made["error"], strict=True)
        return [{"embedding": None if row is None else row.tolist(), "error": error} for row, error in rows]

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    images = daft.from_pydict({"name": [str(file) for file in files], "content": [file.read_bytes() for file in files]})
    made = embed_column(daft.col("name"), daft.col("content"))
    table = images.select(daft.col("name"), made.alias("made"))
    return table.select(
        daft.col("name"),
        daft.col("made").get("embedding").alias("embedding"),
        daft.col("made").get("error").alias("error"),
    )


if __name__ == "__main__":
    embedded(sys.argv[1], Path(sys.argv[2])).write_parquet(sys.argv[3])
