"""Which datacenter serves a request: the first wish that is live and allowed, else the nearest."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError


@dataclass(frozen=True, slots=True)
class DatacenterView:
    """One datacenter as this gateway sees it now."""

    name: str
    endpoint: str
    rtt_ms: float
    live: bool


def choose_datacenter(
    views: Sequence[DatacenterView], wishes: Sequence[str], residency: Sequence[str]
) -> DatacenterView:
    """Pure. Residency is a rule, a wish is an order; raises NO_DATACENTER when none is left."""
    allowed = [view for view in views if view.live and (not residency or view.name in residency)]
    if not allowed:
        raise DataPlaneError(
            StatusCode.NO_DATACENTER,
            f"no live datacenter among {', '.join(residency) or 'all'}",
            "widen residency, or prefill locally",
        )
    by_name = {view.name: view for view in allowed}
    for wish in wishes:
        if wish in by_name:
            return by_name[wish]
    return min(allowed, key=lambda view: (view.rtt_ms, view.name))


def reason_of(chosen: DatacenterView, wishes: Sequence[str]) -> str:
    """Why it was chosen, in the words in which `routes/explain` says so beforehand."""
    if chosen.name in wishes:
        return f"{chosen.name} is wish number {wishes.index(chosen.name) + 1}"
    return f"{chosen.name} is nearest, {chosen.rtt_ms:g} ms away"
