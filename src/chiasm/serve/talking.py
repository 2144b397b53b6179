"""The part of `Model` that talks: `chat`, and questions to the starter."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, Literal, overload

from chiasm.core.errors import MissingTaskError
from chiasm.core.types import Prediction
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.serve.abilities import can
from chiasm.serve.given import ImageInput, listed
from chiasm.serve.socratic import SocraticTalker
from chiasm.serve.talker import SeeingTalker, Talker
from chiasm.tasks.conversation import Conversation
from chiasm.tasks.conversation_decoding import Sampling, Written

Messages = str | Sequence[Mapping[str, Any]]


class Talks:
    """What a `Model` does with words that are written one after the other."""

    pipeline: Pipeline

    @property
    def is_told(self) -> bool:
        """Whether this is the starter, whose language model is told in words what the image tower sees."""
        return self.pipeline.config.recipe == STARTER

    @cached_property
    def talker(self) -> Talker:
        """What turns messages into replies.

        Raises:
            MissingTaskError: the model was not trained for conversation.
        """
        if self.is_told:
            return SocraticTalker(self.pipeline)
        if not can(tuple(self.pipeline.tasks), "chat"):
            raise MissingTaskError(Conversation.name, tuple(self.pipeline.tasks))
        return SeeingTalker(self.pipeline)

    @overload
    def chat(
        self,
        messages: Messages,
        images: ImageInput | Sequence[ImageInput] = (),
        *,
        stream: Literal[False] = False,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Prediction: ...
    @overload
    def chat(
        self,
        messages: Messages,
        images: ImageInput | Sequence[ImageInput] = (),
        *,
        stream: Literal[True],
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Generator[str, None, None]: ...
    # More than eight arguments: they are those of OpenAI's API, by its names.
    def chat(
        self,
        messages: Messages,
        images: ImageInput | Sequence[ImageInput] = (),
        *,
        stream: bool = False,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Prediction | Generator[str, None, None]:
        """Reply to a conversation, which may show images.

        Args:
            messages: a text of the user; or messages with role and content, see `serve.messages.spoken`.
            images: an image or a list of them, shown before the user's first words.
            stream: give the reply's text in parts, as it is written.
            max_tokens: longest reply.
            temperature: 0 takes the likeliest token each time.
            top_p: probability of the tokens that are drawn from, with a temperature.
            stop: texts that end the reply, which is cut before them.
            seed: decides the draws: equal seeds give equal replies.

        Returns:
            The reply, see `Talker.reply`; or a generator of its text, which may be closed to end the writing.

        Raises:
            MissingTaskError: the model was not trained for conversation.
            InputError: messages that no user ends, an unknown role, a value out of its range, or a conversation that
                is longer than the language model reads.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stops)
        sampling.check()
        prompt = self.talker.prompt(messages, listed(images)[0])
        written = self.talker.written(prompt, sampling)
        if stream:
            return _texts(written)
        return self.talker.reply(list(written))

    def _answers_in_words(self, images: Sequence[ImageInput], questions: Sequence[str]) -> list[Prediction]:
        """Answers of the starter, in the shape of `Model.ask`."""
        found = []
        for image, question in zip(images, questions, strict=True):
            said = self.chat(question, image, max_tokens=48)
            answers = [{"answer": said.answer, "probability": said.confidence}]
            found.append(
                Prediction(said.answer, said.confidence, {**said.evidence, "answers": answers}, said.confidence)
            )
        return found


def _texts(written: Generator[Written, None, None]) -> Generator[str, None, None]:
    """The parts of a reply's text; closing it closes what it reads."""
    with closing(written):
        yield from (one.text for one in written if one.text)
