"""What most people write first: a FastAPI handler that calls transformers.

python -m benchmarks.support.plain_service CHECKPOINT --port PORT
"""

# No `from __future__ import annotations`: FastAPI reads the annotation of a local class.
import argparse
import base64
import io
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from transformers import AutoModel, AutoProcessor


class Ask(BaseModel):
    """The body of a request."""

    task: str
    texts: list[str]
    image_b64: str | None = None
    top_k: int = 5


def application(checkpoint: str) -> FastAPI:
    """The routes that icclip has as well."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    app = FastAPI()
    # Fast tokenizers raise "Already borrowed" when two threads pad with one.
    tokenizing = threading.Lock()

    @app.get("/ping")
    def ping() -> dict[str, str]:
        return {"status": "ready"}

    def of_texts(texts: list[str]) -> torch.Tensor:
        with tokenizing:
            words = processor(text=texts, padding=True, truncation=True, return_tensors="pt")
        return unit(model.get_text_features(**words))

    @app.post("/invocations")
    @torch.inference_mode()
    def invocations(ask: Ask) -> dict[str, Any]:
        if ask.task == "encode_text":
            return {"text_embeddings": of_texts(ask.texts).tolist()}
        image = Image.open(io.BytesIO(base64.b64decode(ask.image_b64 or ""))).convert("RGB")
        pixels = processor(images=image, return_tensors="pt")
        cosines = unit(model.get_image_features(**pixels))[0] @ of_texts(ask.texts).T
        best = (cosines * model.logit_scale.exp()).softmax(0).topk(min(ask.top_k, len(ask.texts)))
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return {"top_k": [{"text": ask.texts[place], "score": score} for score, place in found]}

    return app


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def main() -> None:
    """Serve on loopback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(
        application(options.checkpoint), host="127.0.0.1", port=options.port, access_log=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
