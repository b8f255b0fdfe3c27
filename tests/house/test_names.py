"""Names: no drawers for odds and ends, no packages where a folder is meant, no stray words."""

import re

import pytest

DRAWERS = frozenset({"utils", "util", "helpers", "helper", "common", "misc"})
# Spelled in parts, so that this file passes its own check.
PROHIBITED = tuple(
    "".join(parts)
    for parts in [
        ("/", "work/"),
        ("/t", "mp/contract"),
        ("/opt/", "wheels"),
        ("pypi", ".org"),
        ("python", "hosted"),
        ("work", "place"),
        ("for the ", "helpers"),
        ("TO", "DO"),
        ("FIX", "ME"),
        ("X", "XX"),
    ]
)
TEXT_SUFFIXES = (".py", ".md", ".toml", ".sh", ".proto", ".txt", ".yml", ".yaml", ".json")
PROHIBITED_PATTERN = re.compile("|".join(rf"{re.escape(word)}" for word in PROHIBITED))


def is_drawer(name):
    """Whether any part of a path is a drawer for odds and ends."""
    return any(part.removesuffix(".py") in DRAWERS for part in name.split("/"))


def prohibited_words(text):
    return sorted(set(PROHIBITED_PATTERN.findall(text)))


def test_no_drawers(repository):
    found = [repository.name(p) for p in repository.python() if is_drawer(repository.name(p))]
    assert not found


def test_room_folders_and_tests_are_no_packages(repository):
    folders = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk")
    rooms = [repository.root / folder / "__init__.py" for folder in folders]
    tests = list((repository.root / "tests").rglob("__init__.py"))
    assert not [path for path in [*rooms, *tests] if path.exists()]


def test_every_package_is_typed(repository):
    packages = [p.parent for p in repository.root.glob("*/prefill_*/__init__.py")]
    assert len(packages) >= 7
    assert not [p for p in packages if not (p / "py.typed").exists()]


def test_every_room_has_a_readme(repository):
    rooms = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk", "tests")
    readmes = [repository.root / room / "README.md" for room in rooms]
    short = [p for p in readmes if not p.exists() or len(p.read_text(encoding="utf-8")) < 200]
    assert not [repository.name(p) for p in short]


def test_no_prohibited_words(repository):
    top = [p for p in repository.root.iterdir() if p.is_file() and p.name != ".git"]
    shipped_text = [p for p in repository.files(*TEXT_SUFFIXES) if "checkpoints" not in p.parts]
    found = []
    for path in [*top, *shipped_text]:
        words = prohibited_words(path.read_text(encoding="utf-8"))
        if words:
            found.append(f"{repository.name(path)}: {words}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "fires"),
    [("sdk/a/utils.py", True), ("sdk/common/a.py", True), ("sdk/a/commons_based.py", False)],
)
def test_the_drawer_detector_fires(name, fires):
    assert is_drawer(name) is fires


@pytest.mark.parametrize("word", PROHIBITED)
def test_the_word_detector_fires(word):
    assert prohibited_words(f"see {word} for it") == [word]
    assert prohibited_words("a plain sentence about networks") == []
