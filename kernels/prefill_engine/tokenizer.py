"""A checkpoint folder's tokenizer.json, by the tokenizers library."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from prefill_engine.checkpoint_folder import RESTORE
from prefill_engine.errors import CheckpointError


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, inner: _Tokenizer) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        """Token ids, no special tokens added."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids."""
        return str(self._inner.decode(ids))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder; `CheckpointError` when it has none that can be read."""
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing", RESTORE)
    try:
        return Tokenizer(_Tokenizer.from_file(str(file)))
    except Exception as error:  # the library raises this very class
        raise CheckpointError(f"{file} cannot be read: {error}", RESTORE) from error
