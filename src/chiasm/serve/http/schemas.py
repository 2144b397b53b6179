"""Schemas of requests and responses; FastAPI generates /openapi.json from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST = 256
"""Most items of any list; the server's own limit is usually lower."""
LONGEST_TEXT = 8000

Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=r"\S")]
Image = Annotated[
    str,
    Field(
        min_length=1, description="A data URI (data:image/png;base64,...), bare base64, or an allowed https address."
    ),
]
Images = Image | Annotated[list[Image], Field(min_length=1, max_length=MOST)]
Texts = Text | Annotated[list[Text], Field(min_length=1, max_length=MOST)]
Value = str | bool | int | Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of the native requests; unknown fields are errors, so that misspelt ones are not ignored."""

    model_config = ConfigDict(extra="forbid")


class Lenient(BaseModel):
    """Base of OpenAI's requests; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class AskRequest(Strict):
    """Questions about images: two lists are paired, a single item is paired with each of a list."""

    image: Images
    question: Texts
    heat_map: bool = False


class CaptionRequest(Strict):
    """Images to describe."""

    image: Images
    language: Annotated[str, Field(max_length=16, description="Such as en or zh; empty is the model's first.")] = ""
    heat_map: bool = False


class ClassifyRequest(Strict):
    """Images to classify: among the classes that the model was trained on, or among labels of your own."""

    image: Images
    labels: Annotated[
        list[Text],
        Field(max_length=1000, description="Two or more; none takes the model's own classes, if it has any."),
    ] = []
    prompts: Annotated[
        list[Text],
        Field(max_length=MOST, description="Sentences with {label} where a name belongs; none takes the model's own."),
    ] = []


class MatchRequest(Strict):
    """An image and texts, or pairs of both."""

    image: Images
    text: Texts


class SearchRequest(Strict):
    """A query of the index: words, an image, or both."""

    text: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] = ""
    image: Image | None = None
    count: Annotated[int, Field(ge=1, le=MOST, strict=True)] = 12
    where: Annotated[
        dict[Annotated[str, Field(max_length=200)], Value],
        Field(max_length=32, description="Metadata that an image must have."),
    ] = {}
    rerank: Annotated[bool, Field(description="Re-rank the best results with the fusion model.")] = False


class ImageUrl(Lenient):
    """OpenAI's wrapping of an address."""

    url: Image


class TextPart(Lenient):
    """Words of a message."""

    type: Literal["text"]
    text: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]


class ImagePart(Lenient):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
PlainText = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]


class Message(Lenient):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: PlainText | Annotated[list[Part], Field(max_length=MOST)] | None = None


class StreamOptions(Lenient):
    """What a stream ends with."""

    include_usage: bool = False


Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ChatRequest(Lenient):
    """A conversation, which a model that was trained for it continues.

    Of other models the last words of the user are asked about the last image; how to write is not for these.
    """

    model: Annotated[str, Field(max_length=500)] = ""
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1, description="Number of answers; only 1 is supported.")] | None = 1
    max_tokens: (
        Annotated[int, Field(ge=1, description="Longest reply; the server's own limit holds where it is lower.")] | None
    ) = None
    max_completion_tokens: (
        Annotated[int, Field(ge=1, description="Newer name of max_tokens, and before it.")] | None
    ) = None
    temperature: (
        Annotated[float, Field(ge=0, le=2, description="0, the default, takes the likeliest token.")] | None
    ) = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, description="Equal seeds give equal replies.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbeddingsRequest(Lenient):
    """Texts and images; a text that is a data URI of an image is one."""

    model: Annotated[str, Field(max_length=500)] = ""
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)] | Part], Field(min_length=1, max_length=MOST)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class ImagesRequest(Strict):
    """Images to draw of a prompt, in OpenAI's words and a few more; what would change nothing has one value alone.

    With `image` it is completed or changed: its upper half is kept, or what `keep_rows` or `mask` say. With `best_of`
    those n images come that the server's second run (`--rank-by`) finds nearest to the prompt, the nearest first.
    """

    model: Annotated[str, Field(max_length=500)] = ""
    prompt: Text
    image: Image | None = None
    keep_rows: (
        Annotated[int, Field(ge=0, lt=2**16, description="Rows of the image's tokens that are kept, from the top.")]
        | None
    ) = None
    mask: Image | None = None
    n: Annotated[int, Field(ge=1, le=MOST, description="Images to draw; the server's limit may be lower.")] | None = 1
    best_of: (
        Annotated[int, Field(ge=1, le=MOST, description="Draw so many and keep the n that a second run ranks best.")]
        | None
    ) = None
    size: Annotated[str, Field(max_length=20, description="WIDTHxHEIGHT as /v1/models lists it, or auto.")] | None = (
        None
    )
    response_format: (
        Annotated[Literal["b64_json", "url"], Field(description="b64_json is the default; url gives a data URI.")]
        | None
    ) = None
    stream: bool | None = None
    partial_images: (
        Annotated[
            int,
            Field(ge=0, le=MOST, description="Events before a whole image; null: one after each row. For streams."),
        ]
        | None
    ) = None
    seed: (
        Annotated[int, Field(ge=0, lt=2**53, description="Of the first image; the others have those after it.")] | None
    ) = None
    temperature: Annotated[float, Field(ge=0, le=100, description="null is the run's own, as below.")] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance: (
        Annotated[float, Field(ge=0, le=100, description="How much more the prompt counts; 1 is none.")] | None
    ) = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    user: Annotated[str, Field(max_length=500)] | None = None


class HeatMap(BaseModel):
    """Attention over the image: shares that sum to 1, over the whole image or its centre crop."""

    grid: list[list[float]]
    covers: Literal["whole", "middle"]


class Guess(BaseModel):
    """One candidate answer."""

    answer: str
    probability: float


class Domain(BaseModel):
    """Distance of an input from the training data; 1 % of the validation split exceeds the limit 1."""

    is_outside: bool
    image_distance: float | None
    text_distance: float | None
    unknown_words: list[str] = Field(description="Words of the text that training did not use.")


class Placed(BaseModel):
    """Reasons not to trust an answer."""

    domain: Domain | None = Field(default=None, description="null where the model does not know its training data.")
    abstain_reasons: list[Literal["low_confidence", "image_out_of_domain", "text_out_of_domain"]] = []


class Answer(Placed):
    """The answer to a question."""

    answer: str
    confidence: float
    answers: list[Guess]
    abstains: bool = Field(description="True if the confidence is below the model's threshold for answering.")
    heat_map: HeatMap | None = None


class AskAnswer(BaseModel):
    """Answers in the order of the questions."""

    answers: list[Answer]


class Caption(Placed):
    """A sentence, with the probability that it is true, or near to what people would write: what the run fitted."""

    caption: str
    confidence: float
    word_probability: float = Field(description="Geometric mean probability of its words; not calibrated.")
    language: str
    heat_map: HeatMap | None = None


class CaptionAnswer(BaseModel):
    """Captions in the order of the images."""

    captions: list[Caption]


class Label(BaseModel):
    """A label with its softmax probability; for zero-shot classification also its cosine."""

    label: str
    probability: float
    similarity: float | None = None


class Class(Placed):
    """The most probable label of an image, and the probabilities of all labels."""

    label: str
    confidence: float
    labels: list[Label]


class ClassifyAnswer(BaseModel):
    """Classes in the order of the images."""

    classes: list[Class]


class Matched(BaseModel):
    """Cosine, and probability where the model was trained to match."""

    similarity: float | None
    probability: float | None
    domain: Domain | None = None


class MatchAnswer(BaseModel):
    """Matches in the order of the pairs."""

    matches: list[Matched]


class Hit(BaseModel):
    """An image of the index."""

    id: str
    similarity: float = Field(description="Cosine to the query.")
    score: float | None = Field(
        description="With re-ranking, the probability that this image is meant, of those that were looked at twice."
    )
    fits: bool | None = Field(
        default=None, description="False where unrelated words fit as well; null where that is not known."
    )
    metadata: dict[str, Any]
    picture: str = Field(description="Address of a small JPEG of it on this server.")


class SearchAnswer(BaseModel):
    """Images, best first."""

    weak: bool | None = Field(default=None, description="True where nothing fits; null where that is not known.")
    hits: list[Hit]


class ErrorDetail(BaseModel):
    """What went wrong, in fixed words."""

    code: str
    message: str
    type: str
    id: str
    fields: list[str] = []


class ErrorAnswer(BaseModel):
    """The body of an error response."""

    error: ErrorDetail
