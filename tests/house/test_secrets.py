"""Secrets show in no repr: a dataclass's field that holds one says `repr=False`."""

import ast
import re
from dataclasses import dataclass, field

import pytest

ROOMS = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk")
SECRET_NAME = re.compile(
    r"(.*_)?(secrets?|passwords?|token|credentials?|pepper|seed|keys?)"
    r"|(.*_)?(database|redis|admin)_urls?"
)
SECRET_CLASS = re.compile(r".*(Passwords|Urls|Secrets?)")  # whatever is written in there
# What everybody may see, or what opens nothing by itself.
OPEN_NAME = re.compile(
    r".*public_key|control_key|encapsulated_key|(.*_)?idempotency_key|first_token|.*(cache|limit)_key"
)
CONTENT = re.compile(r"\b(str|bytes|bytearray)\b")  # a type of ours has a repr of its own


def is_dataclass(node):
    return any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)


def holds_a_secret(owner, name, annotation):
    """Whether a class's field by this name and type is a secret's text or bytes."""
    by_name = SECRET_NAME.fullmatch(name) and not OPEN_NAME.fullmatch(name)
    by_class = SECRET_CLASS.fullmatch(owner)
    return bool((by_name or by_class) and CONTENT.search(annotation))


def is_hidden(value):
    return value is not None and "repr=False" in ast.unparse(value)


def shown_secrets(tree):
    """`Class.field` of every secret that its class's repr would show."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ClassDef) and is_dataclass(node)):
            continue
        if any("repr=False" in ast.unparse(mark) for mark in node.decorator_list):
            continue
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                name, kind = line.target.id, ast.unparse(line.annotation)
                if holds_a_secret(node.name, name, kind) and not is_hidden(line.value):
                    found.append(f"{node.name}.{name}")
    return found


def test_no_repr_shows_a_secret(repository):
    found = {name: shown_secrets(tree) for name, tree in repository.trees(*ROOMS)}
    assert not {name: fields for name, fields in found.items() if fields}


@pytest.mark.parametrize(
    ("line", "fires"),
    [
        ("api_key: str", True),
        ("password: str = ''", True),
        ("pepper: bytes = field(default=b'')", True),
        ("redis_url: str", True),
        ("tenant_keys: dict[str, str] = field(default_factory=dict)", True),
        ("token: 'str | None'", True),
        ("api_key: str = field(repr=False)", False),
        ("control_public_key: bytes", False),
        ("first_token: float", False),
        ("pepper: Path", False),
        ("prompt_tokens: int", False),
        ("secret: Secret", False),
        ("key_id: str", False),
    ],
)
def test_the_secret_detector_fires(line, fires):
    assert (
        bool(shown_secrets(ast.parse(f"@dataclass(frozen=True)\nclass A:\n    {line}\n"))) is fires
    )
    assert not shown_secrets(ast.parse(f"class A:\n    {line}\n"))


def test_a_class_of_secrets_hides_all_it_holds():
    source = "@dataclass\nclass {}:\n    owner: str"
    assert shown_secrets(ast.parse(source.format("RolePasswords"))) == ["RolePasswords.owner"]
    assert not shown_secrets(ast.parse(source.format("Rows")))


def test_a_hidden_field_is_hidden():
    @dataclass(frozen=True)
    class Access:
        hidden: str = field(repr=False)
        shown: str

    assert "'b'" in repr(Access("a", "b"))
    assert "'a'" not in repr(Access("a", "b"))
