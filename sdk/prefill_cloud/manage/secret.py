"""A secret in a result: its owner reads `text`; no repr, log line or traceback shows it."""

from __future__ import annotations

from typing import Any


class Secret:
    """Text that is shown once and kept by its owner."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def text(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def decode_secret(kind: type, value: Any) -> Any:
    """msgspec's hook: JSON text as a Secret."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError(kind.__name__)
