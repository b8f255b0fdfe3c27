"""What goes wrong in the engine: every error names the thing and the remedy."""

from __future__ import annotations


class EngineError(Exception):
    """The root: `message` says what happened, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class CheckpointError(EngineError):
    """A checkpoint folder with files missing, changed or unreadable."""


class UnsupportedConfig(EngineError):
    """A config of a model, or a variant of one, that this engine does not compute."""


class TokenOutOfRange(EngineError):
    """A token id outside the vocabulary, or a sequence that is empty or beyond the context."""


class StateMismatch(EngineError):
    """A state whose tensors are not those of this model's schema."""


class SequenceError(EngineError):
    """A handle that is unknown or closed, or a step beyond its tokens."""


class DeviceMissing(EngineError):
    """A GPU that was asked for and is not there, or kernels that are wrong on it."""
