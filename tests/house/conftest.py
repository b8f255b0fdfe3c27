"""What the house tests read: the repository's hand-written files."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOMS = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk")
SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules"})


@dataclass(frozen=True)
class Repository:
    """The checkout: walks without needing git, skips generated code and hidden folders."""

    root: Path

    def files(self, *suffixes: str, folders: tuple[str, ...] = (*ROOMS, "tests")) -> Iterator[Path]:
        for folder in folders:
            for path in sorted((self.root / folder).rglob("*")):
                parts = path.relative_to(self.root).parts
                hidden = any(part.startswith(".") or part in SKIPPED_FOLDERS for part in parts)
                if path.is_file() and not hidden and (not suffixes or path.suffix in suffixes):
                    yield path

    def python(self, *folders: str) -> Iterator[Path]:
        """Hand-written Python of these folders (all rooms and tests when none is named)."""
        for path in self.files(".py", folders=folders or (*ROOMS, "tests")):
            if path.parent.name != "pb":
                yield path

    def trees(self, *folders: str) -> Iterator[tuple[str, ast.Module]]:
        for path in self.python(*folders):
            yield self.name(path), ast.parse(path.read_text(encoding="utf-8"))

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@pytest.fixture(scope="session")
def repository() -> Repository:
    return Repository(Path(__file__).resolve().parents[2])
