"""`chiasm chat`: answers as they are written, a history, images on the way; from a pipe and on a terminal."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Shell, assert_refused
from PIL import Image

import chiasm as library
from chiasm.serve.engine import Model
from tiny_talker import pictures, save_talking_run


@pytest.fixture(scope="module")
def talking_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an untrained model that talks."""
    return save_talking_run(tmp_path_factory.mktemp("talking") / "run")


@pytest.fixture(scope="module")
def model(talking_run: Path) -> Model:
    return library.load(talking_run)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a b.png"
    Image.fromarray(pictures(1)[0]).save(path)
    return path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_lines_of_a_pipe(
    chiasm: Shell, talking_run: Path, model: Model, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are those of `Model.chat` with the same history, and nothing else is on standard output."""
    typed(monkeypatch, f"a dog?\n\n/image {image}\nAnd there?\n/reset\na dog?\n/quit\nnever read\n")
    said = chiasm("chat", talking_run, image, "--max-tokens", 9, "--system", "yes no")
    messages = [
        {"role": "system", "content": "yes no"},
        {"role": "user", "content": [{"image": image}, "a dog?"]},
    ]
    first = model.chat(messages, max_tokens=9).answer
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": [{"image": image}, "And there?"]}]
    second = model.chat(messages, max_tokens=9).answer
    third = model.chat([messages[0], {"role": "user", "content": "a dog?"}], max_tokens=9).answer
    assert first and second and third and len({first, second, third}) > 1
    assert said.out == "".join(f"{one}\n" for one in (first, second, third)), said.err
    assert said.code == 0 and "> " not in said.out and "without images" in said.err


def test_draws_follow_the_seed(chiasm: Shell, talking_run: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "a dog?\n")
    said = chiasm("chat", talking_run, "--temperature", 1.2, "--seed", 4, "--max-tokens", 12)
    assert said.out.rstrip("\n") == model.chat("a dog?", temperature=1.2, seed=4, max_tokens=12).answer


def test_what_is_wrong_is_told(
    chiasm: Shell, talking_run: Path, tiny_run: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(chiasm("chat", tiny_run), "conversation", "chiasm train llava", "chiasm chat starter")
    assert_refused(chiasm("chat", talking_run, image.parent / "absent.png"), "absent.png")
    for line, part in (("/image absent.png", "absent.png"), ("/imagine", "/image FILE"), ("dog " * 600, "/reset|new")):
        typed(monkeypatch, f"{line}\n")
        assert_refused(chiasm("chat", talking_run), part.split("|")[-1])


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *words: object) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chiasm", *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen, self.place = "", 0

    def until(self, text: str, most_s: float = 60) -> None:
        """Read until a text is seen behind the one that was waited for before."""
        os.set_blocking(self.master, False)
        end = time.monotonic() + most_s
        while text not in self.seen[self.place :]:
            assert time.monotonic() < end, self.seen
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                raise AssertionError(f"the program has ended: {self.seen}") from None
        self.place = self.seen.index(text, self.place) + len(text)

    def until_more(self, most_s: float = 60) -> None:
        """Read until anything is seen behind what was waited for: an answer has begun."""
        end = time.monotonic() + most_s
        while len(self.seen) == self.place:
            assert time.monotonic() < end, self.seen
            try:
                self.seen += os.read(self.master, 64).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.005)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def left(self) -> int:
        """Exit status after Ctrl-C; a second one is needed where the random answer itself looked like a prompt.

        What is written meanwhile is read: a program whose terminal is full cannot leave.
        """
        for _ in range(4):
            self.interrupt()
            end = time.monotonic() + 8
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.master, 4096).decode(errors="replace")
                if (status := self.process.poll()) is not None:
                    return status
                time.sleep(0.02)
        raise AssertionError(self.seen)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


@pytest.fixture
def terminal(talking_run: Path, image: Path) -> Iterator[Terminal]:
    opened = Terminal("chat", talking_run, image, "--max-tokens", 380, "--temperature", 1.0, "--seed", 5)
    yield opened
    opened.process.kill()
    opened.process.wait()
    os.close(opened.master)


def test_a_terminal(terminal: Terminal) -> None:
    """A dumb one: no escape sequences; Ctrl-C ends the answer, and leaves where a line is asked for."""
    terminal.until("> ")
    terminal.type("/help\n")
    terminal.until("/quit")
    terminal.until("> ")
    terminal.type("a dog?\n")
    terminal.until("a dog?\r\n")
    terminal.until_more()
    terminal.interrupt()
    terminal.until("\n> ")
    terminal.type("And?\n")
    terminal.until("And?\r\n")
    terminal.until("\n> ")
    assert terminal.left() == 0
    assert "\x1b" not in terminal.seen and "Traceback" not in terminal.seen
