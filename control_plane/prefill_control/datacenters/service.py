"""The catalogue of datacenters; operators change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefill_control.audit.service import Change, picture, record
from prefill_control.datacenters import repository
from prefill_control.datacenters.models import Datacenter
from prefill_control.errors import ControlError, ProblemCode, not_found
from prefill_control.etags import check_version
from prefill_control.pages import PageOf, PageRequest
from prefill_control.work import Work

# What each verb turns, and into what; doing it again changes nothing.
VERBS = {
    "cordon": ({"active", "cordoned"}, "cordoned"),
    "uncordon": ({"cordoned", "active"}, "active"),
    "drain": ({"active", "cordoned", "draining"}, "draining"),
    "undrain": ({"draining", "active"}, "active"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatacenterDraft:
    """A datacenter to be; `rtt_ms` and `egress_mbps` are its link's profile."""

    jurisdiction: str
    place: str
    endpoint: str
    models: list[str]
    accelerators: dict[str, int]
    rtt_ms: int
    egress_mbps: int


async def create(work: Work, name: str, draft: DatacenterDraft) -> Datacenter:
    """A new, active datacenter."""
    row = Datacenter(name=name, state="active", created_at=work.now)
    _fill(row, draft)
    work.session.add(row)
    await work.session.flush()
    record(work, Change("datacenters.create", "datacenter", name, None, picture(row)))
    return row


async def read(work: Work, name: str) -> Datacenter:
    """The datacenter, or NOT_FOUND."""
    row = await repository.find(work.session, name)
    if row is None:
        raise not_found("datacenter")
    return row


async def page(work: Work, jurisdiction: str, asked: PageRequest) -> PageOf[Datacenter]:
    """The catalogue."""
    return await repository.page(work.session, jurisdiction, asked)


async def change(work: Work, name: str, draft: DatacenterDraft, version: int | None) -> Datacenter:
    """Everything but name and state."""
    row = await read(work, name)
    check_version(row.version, version)
    before = picture(row)
    _fill(row, draft)
    await work.session.flush()
    record(work, Change("datacenters.update", "datacenter", name, before, picture(row)))
    return row


async def move(work: Work, name: str, verb: str) -> Datacenter:
    """cordon, uncordon, drain, undrain; WRONG_STATE when the state does not allow it."""
    row = await read(work, name)
    allowed, state = VERBS[verb]
    if row.state not in allowed:
        raise ControlError(ProblemCode.WRONG_STATE, f"datacenter {name} is {row.state}: no {verb}")
    if row.state == state:
        return row
    before = picture(row)
    row.state = state
    await work.session.flush()
    record(work, Change(f"datacenters.{verb}", "datacenter", name, before, picture(row)))
    return row


def _fill(row: Datacenter, draft: DatacenterDraft) -> None:
    values: dict[str, Any] = {name: getattr(draft, name) for name in draft.__slots__}
    for name, value in values.items():
        setattr(row, name, value)
