"""Token ids to text as they come, and the strings that end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_UNFINISHED = "\ufffd"  # what a tokenizer gives for a character whose last bytes are still to come


class Vocabulary(Protocol):
    """A model's text: tokenizer, chat template and the tokens that end an answer."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a generation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of token ids."""
        ...

    def render(self, messages: Sequence[object]) -> str:
        """The prompt of a conversation, by the checkpoint's chat template."""
        ...


class TextStream:
    """Text of a growing list of tokens, given out when it can no longer change.

    Decodes a short window, not the whole list: a token's text may depend on its neighbours.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._window = 0
        self._given = 0

    def push(self, token: int) -> str:
        """The text that this token settles, often all of it, sometimes none."""
        self._tokens.append(token)
        before, now = self._texts()
        if len(now) <= len(before) or now.endswith(_UNFINISHED):
            return ""
        self._window, self._given = self._given, len(self._tokens)
        return now[len(before) :]

    def flush(self) -> str:
        """What is left at the end, unfinished characters included."""
        before, now = self._texts()
        self._window = self._given = len(self._tokens)
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        given = self._tokens[self._window : self._given]
        decode = self._vocabulary.decode
        return (decode(given) if given else ""), decode(self._tokens[self._window :])


class StopStrings:
    """Holds back text that may be the beginning of a stop string, until it is or is not."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text to give out now; nothing after a stop string was found."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            given, self._held = self._held[: min(found)], ""
            return given
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        given, self._held = self._held[:cut], self._held[cut:]
        return given

    def flush(self) -> str:
        """What was held back and came to nothing."""
        given, self._held = self._held, ""
        return given


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
