"""A checkpoint folder's text: tokenizer, chat template, and the tokens that end an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from prefill_wire.status import StatusCode

from prefill_cloud.errors import error_for

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class CheckpointText:
    """The `Vocabulary` of a Hugging Face checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        """Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.

        Raises prefill_engine's `CheckpointError` when there is no tokenizer.
        """
        from prefill_engine.tokenizer import load_tokenizer

        self._tokenizer = load_tokenizer(folder)
        self._config = _json(folder / "tokenizer_config.json")
        self._folder = folder
        ends = _json(folder / "generation_config.json").get("eos_token_id", ())
        self.end_tokens = frozenset(int(end) for end in (ends if isinstance(ends, list) else [ends])
                                    if isinstance(end, int))  # fmt: skip

    def encode(self, text: str) -> list[int]:
        """Token ids, no special tokens added."""
        return self._tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Text, special tokens left out."""
        return self._tokenizer.decode(ids)

    def render(self, messages: Sequence[object]) -> str:
        """The prompt of a conversation; `InvalidRequestError` when there is no template for it."""
        template = self._template()
        if not template:
            _refuse(f"checkpoint {self._folder.name} has no chat template; send text or token ids.")
        special = {name: _content(self._config.get(name)) for name in _SPECIAL}
        return render_template(template, [_message(each) for each in messages], special)

    def _template(self) -> str:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template}
            template = named.get("default")
        return template if isinstance(template, str) else ""


def render_template(
    template: str, messages: Sequence[Mapping[str, str]], special: Mapping[str, str]
) -> str:
    """A chat template as transformers renders it: sandboxed, no blanks around blocks."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        _refuse("messages need jinja2, which comes with prefill-cloud[local].")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        compiled = environment.from_string(template)
        return compiled.render(messages=messages, add_generation_prompt=True, **special)
    except TemplateError as error:
        kind = type(error).__name__  # its message may quote the conversation
        _refuse(f"the checkpoint's chat template refuses these messages ({kind}).")


def _refuse(message: str) -> NoReturn:
    raise error_for(StatusCode.MALFORMED_REQUEST, message)


def _message(message: object) -> Mapping[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        _refuse("a message is a mapping with role and content.")
    if not all(isinstance(message[key], str) for key in ("role", "content")):
        _refuse("a message's role and content are text.")
    return dict(message)


def _content(token: object) -> str:
    """A special token's text; it may be an object with more about it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        _refuse(f"{path.name} of checkpoint {path.parent.name} cannot be read.")
    return value if isinstance(value, dict) else {}
