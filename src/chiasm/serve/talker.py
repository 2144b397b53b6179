"""Conversations with a language model: messages -> prompt -> reply, whole or as it is written."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chiasm.core.types import Prediction, Tokens, Turn
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.given import ImageInput, prepared
from chiasm.serve.messages import spoken
from chiasm.tasks.conversation import Conversation
from chiasm.tasks.conversation_decoding import Decoder, Finish, Sampling, Seen, Written
from chiasm.tasks.prefix_store import PrefixStore


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a decoder reads: ids with `IMAGE_ID` for each image, and the images."""

    ids: list[int]
    images: list[Seen]


class Talker(ABC):
    """Talks by a language model; its decoders share what was read.

    Args:
        language: in evaluation mode.
        tokenizer: the language model's.
        project: image tokens -> tokens of the width of word embeddings; None for a language model that sees none.
    """

    note = ""
    """What a user should know of the replies; "" where they are the trained model's own."""

    def __init__(
        self, language: LanguageModel, tokenizer: ChatTokenizer, project: Callable[[Tokens], Tokens] | None
    ) -> None:
        self.language, self.tokenizer, self.project = language, tokenizer, project
        self.store = PrefixStore()

    @abstractmethod
    def see(self, turns: Sequence[Turn], images: Sequence[ImageInput]) -> tuple[list[Turn], list[Seen]]:
        """Turns as the language model reads them, and the images at their placeholders.

        Raises:
            ImageError: an image cannot be used.
        """

    def decoder(self) -> Decoder:
        """A decoder without rows."""
        return Decoder(self.language, self.tokenizer, self.project, self.store)

    def prompt(self, messages: str | Sequence[Mapping[str, Any]], images: Sequence[ImageInput] = ()) -> Prompt:
        """Read messages; see `messages.spoken`.

        Raises:
            MessagesError: no conversation that ends with the user.
            ImageError: an image cannot be used.
        """
        turns, seen = self.see(*spoken(messages, images))
        return Prompt(self.tokenizer.prompt(turns), seen)

    def written(self, prompt: Prompt, sampling: Sampling) -> Generator[Written, None, None]:
        """The tokens of a reply as they are written; closing the generator ends the writing."""
        decoder = self.decoder()
        decoder.add("", prompt.ids, prompt.images, sampling)
        try:
            while len(decoder):
                yield from decoder.step()
        except GeneratorExit:
            decoder.remove("")  # between two steps; after an error within one, nothing of the row is kept
            raise

    def piece(self, number: int) -> str:
        """Text of one token, with its white space; special tokens included."""
        return str(self.tokenizer.tokenizer.decode([number], skip_special_tokens=False))

    def reply(self, written: Sequence[Written]) -> Prediction:
        """A whole reply.

        Its confidence is the geometric mean of its tokens' probabilities, not calibrated; `evidence["tokens"]` has
        pairs of a token's text and its probability, without the end token; `evidence["finish_reason"]` is "stop" or
        "length".
        """
        ends = self.tokenizer.end_ids
        mean = math.exp(sum(one.log_probability for one in written) / max(len(written), 1))
        tokens = [
            [self.piece(one.id), math.exp(one.log_probability)]
            for one in written
            if one.id not in ends and not one.is_cut
        ]
        finish: Finish = written[-1].finish if written else "length"
        evidence = {"tokens": tokens, "word_probability": mean, "finish_reason": finish}
        return Prediction("".join(one.text for one in written), mean, evidence, mean)


class SeeingTalker(Talker):
    """A pipeline that was trained for conversation: the language model sees images through its bridge."""

    def __init__(self, pipeline: Pipeline) -> None:
        pipeline.task(Conversation)
        bridge = pipeline.model.bridge(Conversation.name)
        super().__init__(pipeline.model.language, pipeline.codec.chat_tokenizer, bridge)
        self.pipeline = pipeline

    def see(self, turns: Sequence[Turn], images: Sequence[ImageInput]) -> tuple[list[Turn], list[Seen]]:
        """See `Talker.see`; images are encoded only where they were not read before."""
        return list(turns), [self._seen(prepared(one, self.pipeline.resizing)) for one in images]

    def _seen(self, pixels: Tensor) -> Seen:
        def tokens() -> Tokens:
            with torch.no_grad():
                return self.pipeline.encode_pixels(pixels[None])

        return Seen(pixels_key(pixels), tokens)


def pixels_key(pixels: Tensor) -> str:
    """SHA-256 of an image as its encoder takes it, its shape included."""
    return hashlib.sha256(f"{tuple(pixels.shape)} ".encode() + pixels.contiguous().numpy().tobytes()).hexdigest()
