"""Objects of the management API for people and for programs; money is integer micros till here."""

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefill_stack.console import people

if TYPE_CHECKING:
    from msgspec import Struct

MICROS = 1_000_000
MONEY_SUFFIX = "_micros"
LEAST_DECIMALS = 2
UNBOUNDED_COLUMNS = 4096
NUMBERS = (MONEY_SUFFIX, "tokens", "_bytes", "_sent", "_count", "_ms", "_mbps", "requests",
           "_per_second", "_hard", "concurrency")  # fmt: skip
TIMES = ("_at", "_from", "_until", "at")
EDGE = 3  # what a cell costs besides its text: a blank on both sides and a rule


def money(micros: int) -> str:
    """Micros as a decimal number, exactly: at least two decimals, no more than are needed."""
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), MICROS)
    digits = f"{part:06d}".rstrip("0").ljust(LEAST_DECIMALS, "0")
    return f"{sign}{whole:,}.{digits}"


def title_of(name: str) -> str:
    """A field's name for people."""
    return name.removesuffix(MONEY_SUFFIX).replace("_", " ")


def text_of(name: str, value: Any, currency: str = "") -> str:
    """A field's value for people; an amount names the currency that the API told with it."""
    if value is None or value == "":
        return "-"
    if name.endswith(MONEY_SUFFIX):
        return f"{money(value)} {currency}".rstrip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        return ", ".join(_entry(key, entry) for key, entry in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(entry) for entry in value) or "-"
    return str(value)


def _entry(key: str, value: Any) -> str:
    """One of named values; a timeline's microseconds and moments in units that people read."""
    if isinstance(value, int) and key.endswith("_us"):
        return f"{key.removesuffix('_us')}={value / 1000:,.1f} ms"
    if isinstance(value, int) and key.endswith("_at_ms"):
        at = dt.datetime.fromtimestamp(value / 1000, dt.UTC)
        return f"{key.removesuffix('_ms')}={text_of(key, at)}"
    return f"{key}={value}"


def as_rows(items: "Sequence[Struct]", columns: Sequence[str]) -> list[list[str]]:
    """The cells of a table."""
    return [[_text_in(item, name) for name in columns] for item in items]


def _text_in(view: "Struct", name: str) -> str:
    """A field of an object for people."""
    return text_of(name, getattr(view, name), getattr(view, "currency", ""))


def show_table(table: Table) -> None:
    """On a terminal within its width; elsewhere as wide as it is, so that no id is broken."""
    _console().print(table)


def _console() -> Console:
    console = people()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBOUNDED_COLUMNS
    return console


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of many objects, the columns that matter most first: the last ones are left out
    where all would not fit, so that what stays can be read and copied whole."""
    console = _console()
    widths = fitting(columns, rows, console.width)
    table = Table()
    for name, width in zip(columns, widths, strict=False):
        side: Any = "right" if name.endswith(NUMBERS) else "left"
        table.add_column(title_of(name), justify=side, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row[: len(widths)]))
    console.print(table)
    if left_out := columns[len(widths) :]:
        names = ", ".join(map(title_of, left_out))
        console.print(f"not shown in {console.width} columns: {names} (--json has them)")


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The widths of the columns that fit, the first ones, one at least: no word, time or amount in
    them is broken; what is to spare keeps texts of several words in one line."""
    least: list[int] = []
    most: list[int] = []
    for number, name in enumerate(columns):
        cells = [row[number] for row in rows]
        whole = name.endswith((*TIMES, MONEY_SUFFIX))
        words = [word for cell in cells for word in ([cell] if whole else cell.split())]
        needed = max(cell_len(word) for word in (*words, *title_of(name).split()))
        if 1 + EDGE * (number + 1) + sum(least) + needed > width and number > 0:
            break
        least.append(needed)
        most.append(max(cell_len(text) for text in (*cells, title_of(name))))
    spare = max(width - 1 - EDGE * len(least) - sum(least), 0)
    for number, (few, many) in enumerate(zip(least, most, strict=True)):
        least[number] = few + min(many - few, spare)
        spare -= least[number] - few
    return least


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
            text = value.text if isinstance(value, Secret) else _text_in(view, name)
            facts.append((name, text))
    return facts


def as_document(view: "Struct") -> Any:
    """An object as JSON values: money stays integer micros, a secret is told (its owner asked)."""
    import msgspec
    from prefill_cloud.manage import Secret

    def plain(value: Any) -> str:
        return value.text if isinstance(value, Secret) else str(value)

    return msgspec.to_builtins(view, enc_hook=plain)
