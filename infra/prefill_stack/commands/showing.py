"""Objects of the management API for people and for programs; money is integer micros till here."""

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from prefill_stack.console import people

if TYPE_CHECKING:
    from msgspec import Struct

MICROS = 1_000_000
MONEY_SUFFIX = "_micros"
LEAST_DECIMALS = 2
UNBOUNDED_COLUMNS = 4096


def money(micros: int) -> str:
    """Micros as a decimal number, exactly: at least two decimals, no more than are needed."""
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), MICROS)
    digits = f"{part:06d}".rstrip("0").ljust(LEAST_DECIMALS, "0")
    return f"{sign}{whole:,}.{digits}"


def title_of(name: str) -> str:
    """A field's name for people."""
    return name.removesuffix(MONEY_SUFFIX).replace("_", " ")


def text_of(name: str, value: Any) -> str:
    """A field's value for people."""
    if value is None or value == "":
        return "-"
    if name.endswith(MONEY_SUFFIX):
        return money(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={entry}" for key, entry in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(entry) for entry in value) or "-"
    return str(value)


def as_rows(items: "Sequence[Struct]", columns: Sequence[str]) -> list[list[str]]:
    """The cells of a table."""
    return [[text_of(name, getattr(item, name)) for name in columns] for item in items]


def show_table(table: Table) -> None:
    """On a terminal within its width; elsewhere as wide as it is, so that no id is broken."""
    console = people()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBOUNDED_COLUMNS
    console.print(table)


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of many objects; nothing is cut, so that ids can be copied."""
    table = Table()
    for name in columns:
        number = name.endswith((MONEY_SUFFIX, "_tokens", "_bytes", "tokens", "requests"))
        table.add_column(title_of(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def facts_table(view: "Struct") -> Table:
    """A table of one object's fields, those of an object within it too."""
    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, text in _facts(view):
        table.add_row(title_of(name), escape(text))
    return table


def _facts(view: "Struct") -> list[tuple[str, str]]:
    from msgspec import Struct
    from prefill_cloud.manage import Secret

    facts: list[tuple[str, str]] = []
    for name in view.__struct_fields__:
        value = getattr(view, name)
        if isinstance(value, Struct):
            facts += _facts(value)
        else:
            text = value.text if isinstance(value, Secret) else text_of(name, value)
            facts.append((name, text))
    return facts


def as_document(view: "Struct") -> Any:
    """An object as JSON values: money stays integer micros, a secret is told (its owner asked)."""
    import msgspec
    from prefill_cloud.manage import Secret

    def plain(value: Any) -> str:
        return value.text if isinstance(value, Secret) else str(value)

    return msgspec.to_builtins(view, enc_hook=plain)
