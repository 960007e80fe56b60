"""The shapes of requests and answers, as OpenAPI tells them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dimensions = Annotated[
    int | None, Field(ge=1, strict=True, description="Keep the first numbers of each vector, at length one.")
]
Modality = Literal["text", "image", "audio"]


LONGEST_ID = 1024  # characters
LONGEST_QUESTION = 2_000  # characters
MOST_FILES = 100  # of a store, that one question is put to
MOST_ITEMS = 4096  # whatever --max-items says


class Lenient(BaseModel):
    """A request; what other servers know and this one does not is let pass."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def null_is_not_given(cls, values: Any) -> Any:
        """Let the default stand where a client writes out what it was not told."""
        return {name: value for name, value in values.items() if value is not None} if type(values) is dict else values


class EmbeddingRequest(Lenient):
    """`input` or `messages`, in the dialects of OpenAI, infinity, Jina and vLLM."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"input": ["a dog barking", "rain on a roof"], "model": "onepeace-tiny"},
                {"input": [{"text": "a dog", "image": "data:image/png;base64,iVBORw0...", "weights": {"text": 0.5}}]},
                {"input": "data:audio/wav;base64,UklGRg...", "modality": "audio"},
            ]
        },
    )

    input: str | list[Any] | dict[str, Any] | None = Field(
        None, description="One input or a list: strings, or objects with text, image or audio (several: one vector)."
    )
    messages: list[Any] | None = Field(None, description="A conversation with content parts, or a list of them.")
    model: str | None = Field(None, description="The model's name; there is one.")
    modality: Modality = Field("text", description="What strings are: words, or addresses or base64 of media.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    dimensions: Dimensions = None
    user: str | None = None
    errors: Literal["fail", "per_item"] = Field(
        "fail", description="per_item: an input that cannot be read gets an error in its place."
    )


class Embedding(BaseModel):
    """A vector, or why there is none."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str | None
    error: ErrorDetail | None = None


class Usage(BaseModel):
    """What a request took."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class CohereRequest(Lenient):
    """Cohere's /v2/embed: one of texts, images, inputs."""

    model: str | None = None
    texts: list[Any] | None = None
    images: list[Any] | None = None
    inputs: list[Any] | None = None
    input_type: str | None = None
    embedding_types: list[Literal["float", "base64", "binary", "ubinary"]] = Field(default=["float"], max_length=8)
    output_dimension: Dimensions = None


class CohereResponse(BaseModel):
    """Vectors by type."""

    id: str
    embeddings: dict[str, list[Any]]
    texts: list[str] = []
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"


class SearchRequest(Lenient):
    """A query: one item, of any modality or several with weights; or an item of the store."""

    model_config = ConfigDict(
        extra="forbid",  # no other server's dialect: a name that is misspelt would change nothing in silence
        json_schema_extra={
            "examples": [
                {"query": "a dog in the snow", "top_k": 5, "where": "modality=image"},
                {"query": {"text": "at night", "audio": "UklGRg...", "weights": {"audio": 0.5}}, "index": "photos"},
                {"like": "photos/dog.jpg", "query": "in the snow"},
            ]
        },
    )

    index: str | None = Field(None, description="The store's name; needed where there are several.")
    query: str | dict[str, Any] | None = Field(
        None,
        description="A string is words; an object as in /v1/embeddings, with items of the store in its content: "
        '{"type": "item", "id": ..., "weight": ...}.',
    )
    without: str | dict[str, Any] | None = Field(None, description="What hits shall be away from.")
    like: str | None = Field(None, description="The id of an item of the store.")
    like_weight: float = Field(1.0, ge=-1e6, le=1e6, description="Its weight beside the query.")
    top_k: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=100_000)
    where: str | None = Field(None, description="A filter: modality=image and year>=2020")
    min_score: float | None = None
    group_by: str | None = None
    copies: bool = Field(True, description="False: of items with the same bytes, or words, the first alone.")
    diversity: float = Field(0.0, ge=0.0, lt=1.0)
    rerank: bool = Field(False, description="Order the 100 nearest by the model's bank of texts.")


class Hit(BaseModel):
    """An item that was found."""

    rank: int
    score: float
    id: str
    modality: str
    uri: str
    metadata: dict[str, Any]
    place: str | None = Field(None, description="Where in its file: 0:12 to 0:13, or page 3.")


class SearchResponse(BaseModel):
    """Hits, best first."""

    index: str
    hits: list[Hit]


Question = Annotated[
    str,
    Field(
        max_length=LONGEST_QUESTION,
        description="Names a part by what is in it, by its number or by its neighbour, or states something of the "
        "whole: what is on page 2? the picture after the dog; a dog, then a cat",
    ),
]


class AskRequest(Lenient):
    """A question to the videos, documents and cut sounds of a store."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "what comes after the dog?", "index": "films", "top_k": 3}]},
    )

    text: Question
    index: str | None = Field(None, description="The store's name; needed where there are several.")
    top_k: int = Field(10, ge=1, le=MOST_FILES, description="Files that are told of, at most.")
    where: str | None = Field(None, description="A filter of the parts by which files are chosen.")


class AskedHit(Hit):
    """The part of a file that answers."""

    score: float = Field(description="How well the file fits the text, beside other files: higher is better.")
    probability: float = Field(description="That this part of the file is meant.")


class AskResponse(BaseModel):
    """A part of each file, the best fitting file first."""

    index: str
    hits: list[AskedHit]


class AlbumRequest(Lenient):
    """A question to items that come with it, in their order."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"text": "what is in item 2?", "input": ["a dog", {"image": "iVBORw0..."}, {"audio": "UklGRg..."}]}
            ]
        },
    )

    text: Question
    input: str | list[Any] | dict[str, Any] = Field(description="The items, as /v1/embeddings takes them.")
    modality: Modality = Field("text", description="What strings are: words, or addresses or base64 of media.")
    model: str | None = Field(None, description="The model's name; there is one.")
    top: int | None = Field(None, ge=1, description="Tell of so many items, the likeliest.")


class AlbumItem(BaseModel):
    """An item, and how likely it is meant, or is one of those that the text counts."""

    item: int = Field(description="Its number: 1 is the first.")
    probability: float


class AlbumResponse(BaseModel):
    """Items, likeliest first."""

    model: str
    match: float = Field(description="How well the whole album fits: to compare statements, or albums.")
    absent: float = Field(description="How likely a number is meant that no item has; from 0.5 on it is.")
    count: int | None = Field(description="How many items are what the text counts; null where it counts nothing.")
    items: list[AlbumItem]


class NewItem(BaseModel):
    """An item to be added: one of text, image or audio, as base64 or a data: address."""

    id: str = Field(min_length=1, max_length=LONGEST_ID)
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    metadata: dict[str, Any] = {}


class AddRequest(Lenient):
    """Items to be added to a store."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"index": "notes", "items": [{"id": "note 1", "text": "rain all day", "metadata": {"year": 2026}}]}
            ]
        },
    )

    index: str | None = None
    items: list[NewItem] = Field(min_length=1, max_length=MOST_ITEMS)
    replace: bool = False


class AddResponse(BaseModel):
    """What was added; it is on the disk."""

    index: str
    added: list[str]


class StoredItem(BaseModel):
    """An item of a store."""

    id: str
    modality: str
    uri: str
    metadata: dict[str, Any]


class MediaAddress(BaseModel):
    """Where a player finds a file."""

    address: str = Field(description="From the service's own address on.")
    type: str


class DeleteResponse(BaseModel):
    """How many items were taken out."""

    index: str
    deleted: int


class ClassifyRequest(Lenient):
    """Which of some words fits each input best."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"input": [{"image": "data:image/png;base64,..."}], "labels": ["cat", "dog"]}]},
    )

    input: str | list[Any] | dict[str, Any]
    modality: Modality = "text"
    labels: list[str] = Field(min_length=1, max_length=1000)
    templates: list[str] = Field(default=["{}"], min_length=1, max_length=32)


class LabelScore(BaseModel):
    """A label and its share of the probability."""

    label: str
    probability: float


class Classified(BaseModel):
    """Labels of one input, likeliest first."""

    index: int
    labels: list[LabelScore]


class ClassifyResponse(BaseModel):
    """What was asked, classified."""

    model: str
    data: list[Classified]


class PredictRequest(Lenient):
    """What a head is asked. What an input holds depends on what the head reads: /v1/models tells."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"model": "finder", "input": [{"image": "data:image/png;base64,iVBORw0...", "text": "the cat"}]},
                {
                    "model": "quiz",
                    "input": {"audio": "UklG...", "text": "what barks?", "choices": ["a dog", "a fox"]},
                },
                {"model": "pairs", "input": [{"image": "iVBORw...", "image2": "iVBORw...", "text": "both show a dog"}]},
            ]
        },
    )

    input: str | list[Any] | dict[str, Any] = Field(
        description="One input or a list: objects with text, image, image2, audio, choices; a string where a head "
        "reads one modality. Media are base64, data: addresses, or https:// ones where allowed."
    )
    model: str | None = Field(None, description="The head's name; needed where there are several.")
    threshold: float = Field(0.5, ge=0.0, le=1.0, description="Probability from which a label, box or span counts.")
    top: int | None = Field(None, ge=1, description="Keep the probabilities of so many labels, the likeliest.")
    errors: Literal["fail", "per_item"] = Field(
        "fail", description="per_item: an input that cannot be read gets an error in its place."
    )


class Predicted(BaseModel):
    """The answer about one input, or why there is none."""

    index: int
    answer: dict[str, Any] | None = Field(
        description="classify, tag: label, probability, probabilities (tag: labels). choose: choice, index, "
        "probability, probabilities. ground: box in pixels, size. detect: present, presence, boxes with scores, size. "
        "locate: present, presence, spans in seconds with scores, seconds."
    )
    error: ErrorDetail | None = None


class PredictResponse(BaseModel):
    """Answers in the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    task: str
    data: list[Predicted]


class ModelCard(BaseModel):
    """A model: the one that embeds, or a head that was trained for a task."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "onepeace"
    dimensions: int | None = Field(None, description="Of the model that embeds.")
    modalities: list[str]
    fingerprint: str
    task: str | None = Field(None, description="Of a head: classify, tag, choose, ground, detect or locate.")
    reads: list[str] | None = Field(None, description="Of a head: the parts of one input.")
    labels: list[str] | None = Field(None, description="Of a head that answers with labels.")


class ModelList(BaseModel):
    """The models: the one that embeds, then the heads."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class IndexCard(BaseModel):
    """A store."""

    name: str
    items: int
    modalities: dict[str, int]
    fields: list[str]
    asks: bool = Field(description="Whether /v1/ask can be put to it: it holds parts of files that the model reads.")


class IndexList(BaseModel):
    """The stores."""

    data: list[IndexCard]


class MapPoint(BaseModel):
    """An item's place on the map."""

    id: str
    modality: str
    x: float
    y: float
    text: str


class MapResponse(BaseModel):
    """A store in two dimensions."""

    index: str
    points: list[MapPoint]
    explained: float = Field(description="Share of the variance that two dimensions keep.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetail


Embedding.model_rebuild()
Predicted.model_rebuild()
