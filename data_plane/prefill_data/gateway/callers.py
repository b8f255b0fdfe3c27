"""Who is calling, and on which terms: the seam between a key file and the control plane."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from prefill_data.gateway.keys import ApiKey, KeyFile
from prefill_data.gateway.terms import Terms, flat_terms
from prefill_data.refusals import Context

Metadata = Iterable[tuple[str, str | bytes]]
_PEER = re.compile(r"ipv[46]:\[?(?:%5B)?([0-9a-fA-F.:]+?)(?:%5D)?\]?:\d+")


class KeySource(Protocol):
    """Where a gateway learns of keys."""

    def check(self, metadata: Metadata, address: str) -> ApiKey:
        """The caller's key; a typed refusal by its KeyStatus."""

    def terms(self, key: ApiKey) -> Terms:
        """What binds a key that was found valid."""


class KeyFileSource:
    """Keys of a file; every tenant pays the same and goes anywhere."""

    def __init__(self, keys: KeyFile, micros_per_million_tokens: int) -> None:
        self._keys, self._terms = keys, flat_terms(micros_per_million_tokens)

    def check(self, metadata: Metadata, address: str) -> ApiKey:
        """The file knows nothing of addresses."""
        return self._keys.check(metadata)

    def terms(self, key: ApiKey) -> Terms:
        """The same for all."""
        return self._terms


def caller_of(keys: KeySource, context: Context) -> ApiKey:
    """The key that a call shows; a typed refusal by its KeyStatus."""
    return keys.check(context.invocation_metadata() or (), peer_address(context.peer()))


def peer_address(peer: str) -> str:
    """The IP address in what gRPC calls a peer; empty when it is none."""
    found = _PEER.fullmatch(peer)
    return found.group(1) if found else ""


def address_within(address: str, networks: Sequence[str]) -> bool:
    """Whether an address lies in one of the networks; an unknown address lies in none."""
    try:
        asked = ipaddress.ip_address(address)
        asked = getattr(asked, "ipv4_mapped", None) or asked
        return any(asked in ipaddress.ip_network(network) for network in networks)
    except ValueError:
        return False
