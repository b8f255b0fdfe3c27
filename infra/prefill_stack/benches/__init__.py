"""The registry of benches: every module here with a `run() -> dict` is one, named by its file."""

import importlib
import pkgutil
from collections.abc import Callable


def names() -> list[str]:
    """The benches that exist, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Callable[[], dict[str, object]]:
    """The function that measures; call it without arguments."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    run: Callable[[], dict[str, object]] = module.run
    return run
