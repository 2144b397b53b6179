"""The verb that talks: a conversation about images in the terminal, line by line, or from a pipe."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chiasm.cli.shared import Run, load, note, say
from chiasm.cli.suggesting import suggesting
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from chiasm.serve.engine import Model

PROMPT = "> "
_HARMLESS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, by which a model could move a terminal's cursor or change its title."""
HELP = """/image FILE   show an image with what you say next; may be repeated
/reset        forget the conversation and its images
/help         this list
/quit         leave, as Ctrl-D does
Ctrl-C ends an answer; where you are asked, it leaves."""


@dataclass(slots=True)
class _Conversation:
    """What was said, and the images that the next words show."""

    system: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    shown: "list[Tensor]" = field(default_factory=list)

    def reset(self) -> None:
        self.messages, self.shown = [], []

    def with_words(self, words: str) -> list[dict[str, Any]]:
        """The messages up to the user's words, the images that are shown with them before these."""
        content: list[Any] = [{"type": "image", "image": one} for one in self.shown]
        before = [{"role": "system", "content": self.system}] if self.system and not self.messages else []
        return [*self.messages, *before, {"role": "user", "content": [*content, words]}]


def chat(
    run: Run,
    images: Annotated[list[Path] | None, typer.Argument(help="Image files to begin with.", metavar="IMAGES")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 256,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest word each time; more lets others be drawn.", min=0, max=2)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal answers.")] = 0,
    system: Annotated[str, typer.Option(help="What the model is told before the conversation.", metavar="TEXT")] = "",
) -> None:
    """Talk with a model about images; answers appear as they are written, and it remembers what was said.

    Lines come from the keyboard or from a pipe. `/help` lists what else can be typed.

    Example: chiasm chat runs/llava picture.jpg
    """
    model = load(run)
    with suggesting("chat", run, images or []):
        talker = model.talker
    if talker.note:
        note(talker.note)
    conversation = _Conversation(system, shown=[model.prepare(path) for path in images or []])
    is_typed = sys.stdin.isatty()
    if is_typed:
        note("say something, or /help")
    drawn = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    for line in _lines(is_typed):
        try:
            if not _is_command(line, conversation, model) and line.strip():
                _answer(line.strip(), conversation, model, drawn)
        except _Quit:
            return
        except InputError as error:
            if not is_typed:
                raise
            note(str(error))


class _Quit(Exception):
    """The user leaves."""


def _lines(is_typed: bool) -> Iterator[str]:
    """Lines of the user, until there are no more of them, or Ctrl-C where a line is asked for."""
    if is_typed:
        with suppress(ImportError):
            import readline  # noqa: F401  gives input() its history and its arrow keys
    while True:
        try:
            yield input(PROMPT) if is_typed else _from_pipe()
        except (EOFError, KeyboardInterrupt):
            if is_typed:
                say("")
            return


def _from_pipe() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _is_command(line: str, conversation: _Conversation, model: "Model") -> bool:
    """Whether a line is a command; it is done then.

    Raises:
        InputError: an unknown command, or an image that cannot be used.
    """
    if not line.startswith("/"):
        return False
    word, _, rest = line.partition(" ")
    if word == "/quit":
        raise _Quit
    if word == "/help":
        note(HELP)
    elif word == "/reset":
        conversation.reset()
        note("the conversation begins anew, without images")
    elif word == "/image":
        _show(rest.strip(), conversation, model)
    else:
        raise InputError(f"{word}", "/image FILE, /reset, /help, /quit", "begin with a space to say a line with /")
    return True


def _show(typed: str, conversation: _Conversation, model: "Model") -> None:
    path = Path(typed).expanduser()
    if not path.exists():  # quoted, or with escaped spaces, as a terminal writes a file that is dropped on it
        with suppress(ValueError):
            path = Path(" ".join(shlex.split(typed))).expanduser()
    if not typed:
        raise InputError("/image without a file", "/image FILE", "give the path of an image")
    conversation.shown.append(model.prepare(path))
    note(f"{path.name} is shown with what you say next")


def _answer(words: str, conversation: _Conversation, model: "Model", drawn: dict[str, Any]) -> None:
    """Write the answer as it comes, and remember it; what Ctrl-C cuts is remembered as far as it was read."""
    messages = conversation.with_words(words)
    said = ""
    parts = model.chat(messages, stream=True, **drawn)
    try:
        with closing(parts):
            for part in parts:
                said += part
                sys.stdout.write(part.translate(_HARMLESS) if sys.stdout.isatty() else part)
                sys.stdout.flush()
    except KeyboardInterrupt:
        note("\n(ended)")
    else:
        say("")
    if not said:
        note("(no words)")
    else:
        conversation.messages = [*messages, {"role": "assistant", "content": said}]
        conversation.shown = []
