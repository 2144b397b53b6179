"""Error responses: a fixed code and a fixed text for each error.

No text contains an exception, a path or request data, so responses leak nothing; the log has the details under the
request id.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse

from chiasm.data.image import REASONS

CODES: dict[str, tuple[int, str]] = {
    "not_http": (400, "this is no HTTP/1.1 that this server reads"),
    "not_json": (400, "the body is no JSON"),
    "context_length_exceeded": (
        400,
        "the conversation is longer than this model reads; leave out earlier turns or images",
    ),
    "unauthorized": (401, "a token is needed: send `Authorization: Bearer TOKEN`"),
    "host_not_allowed": (403, "this server answers to the name it was started under, such as localhost"),
    "origin_not_allowed": (403, "requests from pages of other sites are refused"),
    "not_found": (404, "there is nothing at this address"),
    "model_not_found": (404, "no such model; /v1/models lists what is served"),
    "picture_not_found": (404, "the index holds no such image"),
    "method_not_allowed": (405, "this address takes another method"),
    "body_too_slow": (408, "the body did not arrive in time"),
    "body_too_large": (413, "the body is larger than this server accepts"),
    "unsupported_media": (415, "send application/json without a Content-Encoding"),
    "invalid_request": (422, "the request does not fit the API's description at /openapi.json; see `fields`"),
    "too_many_items": (422, "too many items in one request; send several"),
    "task_not_trained": (422, "this model was not trained for that; /v1/models lists what it can do"),
    "language_unknown": (422, "this model was not trained on that language"),
    "text_unreadable": (422, "this model cannot read that text"),
    "labels": (422, "give two or more different labels, and prompts with {label} in them"),
    "messages": (422, "the messages are no conversation: perhaps system, then user and assistant by turns, last user"),
    "no_picture": (422, "the messages hold no image"),
    "not_base64": (422, "an image is a data URI: data:image/png;base64,..."),
    "url_not_allowed": (422, "this server fetches no such address; send the image as a data URI"),
    "url_not_fetched": (422, "the image could not be fetched"),
    "image_too_slow": (422, "the image takes too long to decode; send it smaller, or in another format"),
    "image_too_heavy": (
        422,
        "decoding the image takes more memory than it may; send it smaller, or in another format",
    ),
    "prompt_unknown": (
        422,
        "training had none of the prompt's words; use words of the training data, in a language that /v1/models lists",
    ),
    "no_start": (422, "rows to keep, or a mask, need an image to keep from; send one of the two with it"),
    "nothing_kept": (422, "keep fewer rows than the image has, or send a mask whose white part is drawn anew"),
    "no_ranker": (422, "this server was started without a run that ranks images (`--rank-by RUN`); leave best_of out"),
    "best_of": (422, "best_of is the number of images to choose from; send n or more"),
    "size_not_drawn": (422, "this model draws images of one size"),
    "guidance": (422, "this model was not trained without captions, which guidance compares with; send guidance 1"),
    "dimensions": (422, "the vectors of this model have another number of dimensions"),
    "no_index": (422, "this server was started without an index of images"),
    "no_query": (422, "give a text, an image, or both"),
    "headers_too_large": (431, "the request's headers are too large"),
    "internal": (500, "an internal error of the server; its log has the details under this id"),
    "busy": (503, "the server has no room; ask again after Retry-After seconds"),
    "deadline": (503, "the answer took too long; ask again"),
    "draining": (503, "the server is stopping"),
    "loading": (503, "the model is not ready yet"),
}
CODES |= {f"image_{code}": (422, f"{given}; allowed: {allowed}") for code, (given, allowed, _) in REASONS.items()}
"""code -> HTTP status, text."""


class ServedError(Exception):
    """An answer that is an error.

    Args:
        code: a key of `CODES`.
        fields: places in the request, by the names of the API's own description.
        retry_after_s: when to ask again.
        allowed: values that this server takes, for the text; never a part of the request.
    """

    def __init__(
        self, code: str, fields: Sequence[str] = (), retry_after_s: int | None = None, allowed: Sequence[str] = ()
    ) -> None:
        super().__init__(code)
        self.code, self.fields, self.retry_after_s = code, tuple(fields), retry_after_s
        self.status, self.message = CODES[code]
        if allowed:
            self.message += f"; allowed: {', '.join(allowed)}"
        self.id = secrets.token_hex(8)

    def body(self) -> dict[str, Any]:
        """The JSON body of the response, in OpenAI's format."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error: dict[str, Any] = {"code": self.code, "message": self.message, "type": kind, "id": self.id}
        if self.fields:
            error["fields"] = list(self.fields)
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        if self.status == 401:
            return {"WWW-Authenticate": 'Basic realm="chiasm", charset="UTF-8"'}
        if self.status == 503:
            return {"Retry-After": str(self.retry_after_s or 1)}
        return {}

    def response(self) -> JSONResponse:
        """The HTTP response: JSON body, status and headers of this error."""
        return JSONResponse(self.body(), self.status, self.headers())
