"""The tiny trained checkpoints and the demo's prompt that the repository ships."""

import json
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from prefill_stack.errors import NotConfigured

CODE_LM = "code-lm"
MQAR = "mqar"


@dataclass(frozen=True)
class DemoPrompt:
    """A real source file, held out of the training, committed by digest."""

    path: Path
    sha256: str
    tokens: int


def checkpoint(name: str) -> Path:
    """Folder of a shipped checkpoint; NotConfigured when this installation lacks it."""
    folder = Path(str(resources.files("prefill_engine"))) / "checkpoints" / name
    if not (folder / "config.json").exists():
        raise NotConfigured(
            f"the shipped checkpoint {name} is not in {folder}",
            "clone the whole repository, or name a checkpoint folder of your own",
        )
    return folder


def demo_prompt() -> DemoPrompt:
    """The demo's prompt: a file of a pinned dependency, as demo_prompt.json describes it."""
    facts = json.loads((checkpoint(CODE_LM) / "demo_prompt.json").read_text(encoding="utf-8"))
    package, path = facts["package"], facts["path"]
    found = Path(str(metadata.distribution(package).locate_file(path)))
    if not found.is_file():
        raise NotConfigured(
            f"the demo's source file {path} of {package} {facts['version']} is missing",
            "run `make setup`: the pinned version of it belongs to this installation",
        )
    return DemoPrompt(found, facts["sha256"], int(facts["prompt_tokens"]))
