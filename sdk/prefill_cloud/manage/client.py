"""The two management clients: the same nouns and verbs, awaited or blocking."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack

import httpx

from prefill_cloud.blocking import LoopThread
from prefill_cloud.clock import Clock
from prefill_cloud.manage.address import Address, authorization, context_of
from prefill_cloud.manage.audit import Audit
from prefill_cloud.manage.caller import Caller
from prefill_cloud.manage.calls import Call, Rows
from prefill_cloud.manage.datacenters import Datacenters, Preferences, Residencies
from prefill_cloud.manage.fleet import Fleet
from prefill_cloud.manage.keys import Keys
from prefill_cloud.manage.limits import LimitsNoun
from prefill_cloud.manage.members import Members, Sessions
from prefill_cloud.manage.models import ModelGrants, Models
from prefill_cloud.manage.patience import Patience
from prefill_cloud.manage.prices import PriceOverrides, Prices, Quotes
from prefill_cloud.manage.routes import Routes
from prefill_cloud.manage.tenants import Tenants
from prefill_cloud.manage.usage import Usage
from prefill_cloud.manage.verbs import AsyncListing, Awaited, Blocking, Listing, M, Way

T = TypeVar("T")


class Account(Generic[M]):
    """The API's nouns, as one account sees them."""

    def __init__(self, way: Way) -> None:
        self.tenants: Tenants[M] = Tenants(way)
        self.members: Members[M] = Members(way)
        self.sessions: Sessions[M] = Sessions(way)
        self.keys: Keys[M] = Keys(way)
        self.limits: LimitsNoun[M] = LimitsNoun(way)
        self.datacenters: Datacenters[M] = Datacenters(way)
        self.preferences: Preferences[M] = Preferences(way)
        self.residency: Residencies[M] = Residencies(way)
        self.models: Models[M] = Models(way)
        self.model_grants: ModelGrants[M] = ModelGrants(way)
        self.prices: Prices[M] = Prices(way)
        self.price_overrides: PriceOverrides[M] = PriceOverrides(way)
        self.quotes: Quotes[M] = Quotes(way)
        self.routes: Routes[M] = Routes(way)
        self.usage: Usage[M] = Usage(way)
        self.audit: Audit[M] = Audit(way)
        self.fleet: Fleet[M] = Fleet(way)


@dataclass(frozen=True, slots=True)
class AwaitedWay:
    """Calls as coroutines."""

    caller: Caller
    tenant_id: str = ""

    def run(self, call: Call[T]) -> Coroutine[Any, Any, T]:
        """The answer, when awaited."""
        return self.caller.value(call, self.tenant_id)

    def rows(self, rows: Rows[T]) -> AsyncListing[T]:
        """For `async for`."""
        return AsyncListing(rows, self.run)


@dataclass(frozen=True, slots=True)
class BlockingWay:
    """The same calls on a loop in a thread of its own."""

    way: AwaitedWay
    thread: LoopThread

    def run(self, call: Call[T]) -> T:
        """The answer."""
        return self.thread.run(self.way.run(call))

    def rows(self, rows: Rows[T]) -> Listing[T]:
        """For `for`."""
        return Listing(rows, self.run)


class ManagementOptions(TypedDict, total=False):
    """Of `AsyncManagementClient`, which explains them."""

    tls_roots: bytes | None
    patience: Patience | None
    clock: Clock | None
    transport: httpx.AsyncBaseTransport | None


class AsyncManagementClient(Account[Awaited]):
    """A way to one management API; `async with` it, from one event loop.

    `base_url`: https, or http on this machine. `credential`: an API key or a session's token;
    None for somebody who is about to sign in, which is all that they may do.
    `tls_roots`: PEM bytes, the system's roots when absent. `transport` replaces the network.
    """

    def __init__(
        self,
        base_url: str,
        credential: str | None,
        *,
        tls_roots: bytes | None = None,
        patience: Patience | None = None,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        address = Address.parse(base_url)
        patience = patience or Patience()
        self.base_url = address.url
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers=authorization(credential),
            verify=context_of(tls_roots),
            timeout=httpx.Timeout(patience.try_seconds),
            trust_env=not address.loopback,  # no proxy sees what stays on this machine
            transport=transport,
        )
        self._way = AwaitedWay(Caller(self._http, patience, clock or Clock()))
        super().__init__(self._way)

    def __repr__(self) -> str:
        return f"AsyncManagementClient({self.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; twice is fine."""
        await self._http.aclose()

    def for_tenant(self, tenant_id: str) -> Account[Awaited]:
        """The same nouns on behalf of a tenant; operators only. Closed with this client."""
        return Account(AwaitedWay(self._way.caller, tenant_id))


class ManagementClient(Account[Blocking]):
    """`AsyncManagementClient` without `await`: the same nouns, verbs, options and errors."""

    def __init__(
        self, base_url: str, credential: str | None, **options: Unpack[ManagementOptions]
    ) -> None:
        self._client = AsyncManagementClient(base_url, credential, **options)
        self._thread = LoopThread()
        super().__init__(BlockingWay(self._client._way, self._thread))

    def __repr__(self) -> str:
        return f"ManagementClient({self._client.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and the thread; twice is fine."""
        if self._thread.closed:
            return
        self._thread.run(self._client.close())
        self._thread.close()

    def for_tenant(self, tenant_id: str) -> Account[Blocking]:
        """The same nouns on behalf of a tenant; operators only. Closed with this client."""
        way = AwaitedWay(self._client._way.caller, tenant_id)
        return Account(BlockingWay(way, self._thread))
