"""The code LM's corpus: the running interpreter's standard library, less the held-out files."""

from __future__ import annotations

import hashlib
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Whole files that training never sees, from different corners of the library.
HELD_OUT = (
    "argparse.py",
    "asyncio/base_events.py",
    "ipaddress.py",
    "json/decoder.py",
    "statistics.py",
    "tarfile.py",
)
LEFT_OUT = ("site-packages", "test", "tests", "idlelib", "pydoc_data", "lib2to3", "__pycache__")
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class SourceFile:
    """One file: its path inside the standard library and its text."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, as the model card lists it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """Files to train on and files held out, each sorted by name."""

    training: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]

    def digest(self) -> str:
        """SHA-256 over the training files' digests, in order: which corpus a model saw."""
        together = hashlib.sha256()
        for source in self.training:
            together.update(bytes.fromhex(source.sha256))
        return together.hexdigest()


def read_corpus(root: Path | None = None) -> Corpus:
    """Read every UTF-8 source file of the standard library, tests and generated tables left out."""
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    training: list[SourceFile] = []
    held_out: list[SourceFile] = []
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if any(part in LEFT_OUT for part in name.split("/")) or name.startswith("encodings/cp"):
            continue
        try:
            source = SourceFile(name, path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue  # a few files are in other encodings on purpose
        (held_out if name in HELD_OUT else training).append(source)
    return Corpus(tuple(training), tuple(held_out))


def shuffled(files: tuple[SourceFile, ...], seed: int) -> list[SourceFile]:
    """The files in an order that depends on the seed alone."""
    order = list(files)
    random.Random(seed).shuffle(order)  # noqa: S311 (an order of files, not a secret)
    return order
