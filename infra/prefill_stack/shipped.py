"""The tiny trained checkpoints and the demo's prompt that the repository ships."""

import json
from dataclasses import dataclass
from importlib import resources
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
    """The code LM's demo prompt, as its demo_prompt.json describes it."""
    folder = checkpoint(CODE_LM)
    facts = json.loads((folder / "demo_prompt.json").read_text(encoding="utf-8"))
    package = Path(str(resources.files("prefill_engine")))
    candidates = [folder / facts["path"], package / facts["path"], package.parent / facts["path"]]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise NotConfigured(
            f"the demo's source file {facts['path']} is missing", "clone the whole repository"
        )
    return DemoPrompt(found, facts["sha256"], int(facts.get("prompt_tokens", 0)))
