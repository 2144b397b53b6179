"""Where a reply ends while it is written: before a stop text, or when it repeats itself."""

from collections.abc import Sequence

from chiasm.data.tokenizers.chat import ChatTokenizer

LOOP_TOKENS, LOOP_TIMES = 24, 3


def is_looping(ids: Sequence[object]) -> bool:
    """Whether the newest tokens are one run, over and over: `LOOP_TIMES` or more, and `LOOP_TOKENS` or more in all.

    Taking the likeliest token each time, a small language model never leaves such a loop (Holtzman et al. 2020, "The
    Curious Case of Neural Text Degeneration", section 4).
    """
    for period in range(1, len(ids) // LOOP_TIMES + 1):
        length = max(LOOP_TIMES * period, LOOP_TOKENS)
        if len(ids) >= length and ids[-1] == ids[-1 - period]:
            newest = ids[-length:]
            if newest[period:] == newest[:-period]:
                return True
    return False


class StoppingStream:
    """As `ChatTokenizer.stream`, and ends where one of the given texts begins.

    A stop text that contains another is not looked for, since the other is complete before it: so the cut does not
    depend on how the text falls into tokens. What may be the beginning of a stop text is held back until it is sure.
    White space before a stop text is dropped, as at every end of a reply. A stop text of white space alone is found
    when the word behind it comes.

    Args:
        tokenizer: the language model's.
        stops: texts that end the reply; none of them is empty.

    Attributes:
        is_stopped: an end token or a stop text has come.
        text: what has been given out.
    """

    def __init__(self, tokenizer: ChatTokenizer, stops: Sequence[str]) -> None:
        self._stream, self._ends = tokenizer.stream(), frozenset(tokenizer.end_ids)
        self._stops = [stop for stop in stops if not any(one in stop for one in stops if one != stop)]
        self._read, self.text, self.is_stopped = "", "", False
        self._cut: int | None = None

    def add(self, one: int) -> tuple[str, bool]:
        """The text that is sure after one more token; and whether the token stands behind the cut."""
        before = len(self._read)
        self._read += self._stream.add(one)
        self.is_stopped = one in self._ends
        if not self._stops:
            return self._given(len(self._read)), False
        places = [place for stop in self._stops if (place := self._read.find(stop, len(self.text))) >= 0]
        if places:
            self._cut, self.is_stopped = min(places), True
            return self._given(self._cut), before >= self._cut
        held = max(_overlap(self._read, stop) for stop in self._stops)
        return self._given(len(self._read) - held), False

    def finish(self) -> str:
        """What is left at the end."""
        if self._cut is not None:
            return ""
        self._read += self._stream.finish()
        places = [place for stop in self._stops if (place := self._read.find(stop, len(self.text))) >= 0]
        self.is_stopped = self.is_stopped or bool(places)
        return self._given(min(places, default=len(self._read)))

    def _given(self, end: int) -> str:
        """Give out the text up to a place, without white space at its end."""
        whole = self._read[:end].rstrip()
        given = whole[len(self.text) :]
        self.text += given
        return given


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that is a beginning of the stop text."""
    return next((size for size in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:size])), 0)
