"""The JSON of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr


class Body(BaseModel):
    """What the requests share: no value is converted, and an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Invocation(Body):
    """`POST /invocations`, as the seed project and SageMaker's clients send it."""

    task: Literal["rank", "encode_image", "encode_text"] = "rank"
    image_b64: StrictStr | None = Field(
        None, description="The content of an image file in base64; a data URL is taken too."
    )
    texts: list[StrictStr] | None = Field(None, description="The texts to rank or to encode.")
    top_k: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 5


class Ranked(BaseModel):
    """A text with the model's own score."""

    text: str
    score: float


class RankAnswer(BaseModel):
    """Of the task `rank`."""

    top_k: list[Ranked]


class ImageAnswer(BaseModel):
    """Of the task `encode_image`."""

    image_embedding: list[float]


class TextsAnswer(BaseModel):
    """Of the task `encode_text`."""

    text_embeddings: list[list[float]]


class EmbeddingsRequest(Body):
    """`POST /v1/embeddings`, as clients of OpenAI's interface send it."""

    input: StrictStr | list[StrictStr] = Field(
        description="Texts, and images as data URLs (data:image/png;base64,...). No other URL is opened: it is a text."
    )
    model: StrictStr = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = Field(None, description="If given, the width of the model's embeddings.")
    user: StrictStr | None = None


class Embedding(BaseModel):
    """One input's."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class SearchRequest(Body):
    """`POST /search`: a text, an image, both, or an item of the index."""

    text: StrictStr | None = None
    image_b64: StrictStr | None = None
    minus: StrictStr | None = Field(None, description="A text that the results should be unlike.")
    like: StrictInt | None = Field(None, ge=0, description="The row of an item: more like this.")
    k: Annotated[StrictInt, Field(ge=1, le=1000)] = 10
    filter: StrictStr | None = Field(None, max_length=1000, description="A condition on the columns: width > 800.")
    thumbnails: StrictBool = False


class Found(BaseModel):
    """One result."""

    rank: int
    row: int
    cosine: float
    score: float | None
    item: dict[str, Any]
    thumbnail: str | None = None


class SearchAnswer(BaseModel):
    """Best first."""

    hits: list[Found]
    seconds: StrictFloat


class About(BaseModel):
    """`GET /info`."""

    model: str
    dim: int
    precision: str
    fingerprint: str
    index: dict[str, Any] | None


class Problem(BaseModel):
    """What is wrong with a request."""

    type: str
    message: str
    field: str | None
    request_id: str


class ProblemAnswer(BaseModel):
    """Every answer that is not a success."""

    error: Problem
