"""Rank texts for an image through the four handlers, without a container and without an account.

    python -m icclip_plugins.sagemaker.trial MODEL_DIR IMAGE TEXT [TEXT ...]

MODEL_DIR is what a training job leaves in `/opt/ml/model`, or a bundle.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

from icclip.errors import IcclipError, UsageError
from icclip_plugins.sagemaker.handlers import input_fn, model_fn, output_fn, predict_fn


def ranked(model_dir: str, image: str, texts: list[str]) -> str:
    """The answer to a request of the task `rank`, as JSON.

    Raises:
        UsageError: the image cannot be read. RequestError: the request cannot be answered.
        CheckpointError: the directory holds no model.
    """
    try:
        content = Path(image).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {image}: {error.strerror}") from error
    request = {"task": "rank", "image_b64": base64.b64encode(content).decode(), "texts": texts}
    return output_fn(predict_fn(input_fn(json.dumps(request)), model_fn(model_dir)))


def main(arguments: list[str] | None = None) -> None:
    """Print the answer, or one line about what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("image")
    parser.add_argument("texts", nargs="+")
    asked = parser.parse_args(arguments)
    try:
        sys.stdout.write(ranked(asked.model_dir, asked.image, asked.texts) + "\n")
    except IcclipError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
