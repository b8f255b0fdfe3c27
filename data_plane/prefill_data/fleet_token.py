"""The secret that processes of one fleet show each other: a worker serves gateways alone."""

import hmac
from collections.abc import Iterable

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

_HEADER = "prefill-fleet-token"
Metadata = tuple[tuple[str, str], ...]


def fleet_metadata(token: bytes) -> Metadata:
    """What a caller sends."""
    return ((_HEADER, token.hex()),)


def check_fleet_token(metadata: Iterable[tuple[str, str | bytes]] | None, token: bytes) -> None:
    """PERMISSION_DENIED unless the caller showed the token."""
    shown = dict(metadata or ()).get(_HEADER, "")
    given = shown.encode() if isinstance(shown, str) else shown
    if not hmac.compare_digest(given, token.hex().encode()):
        raise DataPlaneError(StatusCode.PERMISSION_DENIED, "this service is for gateways alone")
