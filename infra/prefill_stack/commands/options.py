"""Values of options: times with their zone, lists that an empty value clears."""

import datetime as dt
from collections.abc import Sequence

from prefill_stack.errors import NotConfigured

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(option: str, text: str | None, now: dt.datetime | None = None) -> dt.datetime | None:
    """`2030-01-31T00:00:00Z`, or `90d`, `12h`, `30m` from now; None for an empty text."""
    if not text:
        return None
    try:
        if is_span(text):
            span = dt.timedelta(**{UNITS[text[-1]]: int(text[:-1])})
            return (now or dt.datetime.now(dt.UTC)) + span
        at = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise _no_time(option, text) from None
    if at.tzinfo is None:
        raise _no_time(option, text)
    return at


def is_span(text: str) -> bool:
    """Whether a text is a length of time, such as `90d`."""
    return text[-1:] in UNITS and text[:-1].isdecimal() and text.isascii()


def _no_time(option: str, text: str) -> NotConfigured:
    return NotConfigured(
        f"{option} {text[:40]!r} is no time with its zone",
        "write 2030-01-31T00:00:00Z, or 90d, 12h, 30m for a length of time",
    )


def since(option: str, text: str, now: dt.datetime | None = None) -> dt.datetime | None:
    """Like `moment`, but `7d` lies before now."""
    now = now or dt.datetime.now(dt.UTC)
    at = moment(option, text, now)
    return now - (at - now) if at is not None and is_span(text) else at


def kept(given: Sequence[str] | None, before: Sequence[str]) -> Sequence[str]:
    """What an option of many values comes to: unsaid keeps, one empty value clears."""
    return before if not given else [value for value in given if value]


def chosen(option: str, value: str, known: Sequence[str]) -> str:
    """The value of an option that has few, or empty for none; refused by the option's name."""
    if value and value not in known:
        raise NotConfigured(f"{option} {value[:40]!r} is none", f"known: {', '.join(known)}")
    return value


def counts(given: Sequence[str] | None) -> dict[str, int]:
    """NAME=COUNT options as a mapping."""
    pairs = {}
    for option in given or ():
        name, _, number = option.partition("=")
        if not (name and number.isdecimal()):
            raise NotConfigured(f"{option!r} is not NAME=COUNT", "example: --accelerator h100=8")
        pairs[name] = int(number)
    return pairs
