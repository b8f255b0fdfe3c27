"""What a value had to be, in words: msgspec tells a regex, a type of Python and half of a range.

The words come from the type that the handler declares, so they and the document cannot differ; a
text with a pattern is told by its description. What was sent is not repeated: it may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from prefill_control.errors import A_TIME, FieldFault

K = TypeVar("K", bound=inspect.Type)
UNKNOWN = "what the API's document says"
_PLACE = re.compile(
    r"(?P<reason>.*?)(?: - at (?P<key>`key` in )?`\$?(?P<place>[^`]*)`)?", re.DOTALL
)
_STEP = re.compile(r"\[(?:\d+|\.\.\.)\]|\.([^.\[]+)")
_OF_OBJECT = {
    "missing": re.compile(r"Object missing required field `(.+)`"),
    "there is no such field": re.compile(r"Object contains unknown field `(.+)`"),
}


def fault_of(error: msgspec.ValidationError, annotation: Any) -> FieldFault:
    """The field that was wrong in a body of this type, and why."""
    found = _PLACE.fullmatch(str(error))
    if found is None:
        return FieldFault("body", f"expected {UNKNOWN}")
    place, within = found["place"] or "", found["key"] is not None
    for reason, pattern in _OF_OBJECT.items():
        if told := pattern.fullmatch(found["reason"]):
            return FieldFault(f"{place}.{told[1]}".strip("."), reason)
    wanted = wanted_at(annotation, place, within)
    return FieldFault(place.strip(".") or "body", f"a name in it: {wanted}" if within else wanted)


def wanted_at(annotation: Any, place: str = "", within: bool = False) -> str:
    """`expected ...` for the value at a place such as `.scopes[0]`; `within`: for a name there."""
    kind: inspect.Type | None = inspect.type_info(annotation)
    for name in _STEP.findall(place):
        kind = _inner(kind, name)
    if within:
        of_object = _alternative(kind, inspect.DictType)
        kind = of_object and of_object.key_type
    return f"expected {words_of(kind)}"


def wanted_of(model: type[msgspec.Struct], name: str) -> str | None:
    """`expected ...` for a parameter of a handler; None when it has none of this name."""
    for field in msgspec.structs.fields(model):
        if field.name == name:
            kind = inspect.type_info(field.type)
            return f"expected {words_of(kind, may_be_null=False)}"
    return None


def words_of(kind: inspect.Type | None, described: str = "", *, may_be_null: bool = True) -> str:
    """A type for people: its choices, its range or its length."""
    match kind:
        case inspect.Metadata():
            extra: Mapping[str, Any] = kind.extra_json_schema or {}
            described = extra.get("description", "")
            return words_of(kind.type, described, may_be_null=may_be_null)
        case inspect.UnionType():
            kinds = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            words = ["null"] if may_be_null and len(kinds) < len(kind.types) else []
            return " or ".join([*words, *(words_of(each, described) for each in kinds)])
        case inspect.StrType() if kind.pattern is not None and described:
            return described[0].lower() + described[1:].rstrip(".")
        case inspect.EnumType():
            return f"one of {', '.join(str(each.value) for each in kind.cls)}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case inspect.ListType():
            return f"a list{_sized(kind, 'entries')}, each {words_of(kind.item_type)}"
        case inspect.IntType():
            return "a whole number" + _ranged(kind.ge, kind.le, ("from {}", "to {}"))
        case inspect.StrType():
            return f"a text{_sized(kind, 'characters')}"
        case inspect.DictType():
            return f"an object{_sized(kind, 'names')}"
    return next((words for plain, words in _PLAIN if isinstance(kind, plain)), UNKNOWN)


_PLAIN: tuple[tuple[type, str], ...] = (
    (inspect.BoolType, "true or false"),
    (inspect.DateTimeType, A_TIME),
    (inspect.StructType, "an object"),
)


def _sized(kind: Any, unit: str) -> str:
    least, most = kind.min_length, kind.max_length
    both = least is not None and most is not None
    words = _ranged(
        least, most, ("of {}", "to {}") if both else ("of at least {}", "of at most {}")
    )
    return f"{words} {unit}" if words else ""


def _ranged(least: int | None, most: int | None, forms: tuple[str, str]) -> str:
    """Bounds in words, each with a blank before it."""
    pairs = zip(forms, (least, most), strict=True)
    return "".join(f" {form.format(f'{bound:,}')}" for form, bound in pairs if bound is not None)


def _inner(kind: inspect.Type | None, name: str) -> inspect.Type | None:
    """The type one step further in; no name: an entry of a list or of an object."""
    if name:
        struct = _alternative(kind, inspect.StructType)
        fields = struct.fields if struct is not None else ()
        return next((field.type for field in fields if field.encode_name == name), None)
    of_list = _alternative(kind, inspect.ListType)
    if of_list is not None:
        return of_list.item_type
    of_object = _alternative(kind, inspect.DictType)
    return of_object and of_object.value_type


def _alternative(kind: inspect.Type | None, wanted: type[K]) -> K | None:
    """The alternative of a type that is of this kind; None when there is none."""
    if isinstance(kind, inspect.Metadata):
        return _alternative(kind.type, wanted)
    if isinstance(kind, inspect.UnionType):
        return next(filter(None, (_alternative(each, wanted) for each in kind.types)), None)
    return kind if isinstance(kind, wanted) else None
