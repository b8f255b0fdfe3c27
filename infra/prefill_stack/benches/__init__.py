"""The registry of benches: every module here with a `run() -> dict` is one, named by its file."""

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from pathlib import Path


def names() -> list[str]:
    """The benches that exist, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def measures(name: str) -> str:
    """What a bench measures: the first sentence of its module, which is not imported for that."""
    spec = importlib.util.find_spec(_module(name))
    source = Path(str(spec.origin)).read_text(encoding="utf-8") if spec is not None else ""
    words = ast.get_docstring(ast.parse(source)) or ""
    return " ".join(words.partition("\n\n")[0].partition(": ")[2].split()).partition(". ")[0]


def load(name: str) -> Callable[[], dict[str, object]]:
    """The function that measures; call it without arguments."""
    module = importlib.import_module(_module(name))
    run: Callable[[], dict[str, object]] = module.run
    return run


def _module(name: str) -> str:
    return f"{__name__}.{name.replace('-', '_')}"
