"""One engine per process, one transaction per request or task; only this boundary commits.

The role that logs in sees nothing by itself. A transaction names the tenant it is for (`prefill.
tenant`), or becomes the operator role, or carries the digest of a secret that was shown
(`prefill.proof`), which reveals the one row that the digest names.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

OPERATOR_ROLE = "prefill_operator"
SERVER_SETTINGS = {
    "application_name": "prefill-control",
    "timezone": "UTC",
    "statement_timeout": "10000",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": "30000",
}


@dataclass(frozen=True, slots=True)
class OfOneTenant:
    """Rows of this tenant, and no others."""

    tenant_id: str


@dataclass(frozen=True, slots=True)
class OfOperator:
    """With an operator's rights: rows of every tenant, or of the one that is named."""

    tenant_id: str = ""


@dataclass(frozen=True, slots=True)
class OfProof:
    """The one row whose secret has this digest (hex): a key, a session."""

    digest: str


@dataclass(frozen=True, slots=True)
class OfNobody:
    """No tenant's rows at all; the catalogue only."""


Reach = OfOneTenant | OfOperator | OfProof | OfNobody


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many connections a process may hold, and how long a request waits for one."""

    size: int = 10
    overflow: int = 5
    wait_seconds: float = 5.0
    connect_seconds: float = 5.0


class Database:
    """Hands out transactions; `close` when the process ends."""

    def __init__(self, url: str, plan: PoolPlan | None = None) -> None:
        """`url` is `postgresql://user:password@host:port/database`, with the app role's user."""
        plan = plan or PoolPlan()
        self.engine = create_async_engine(
            async_url(url),
            pool_size=plan.size,
            max_overflow=plan.overflow,
            pool_timeout=plan.wait_seconds,
            pool_recycle=1800,
            hide_parameters=True,  # an error's text must not tell what was written
            connect_args={
                "dsn": url,
                "timeout": plan.connect_seconds,
                "server_settings": SERVER_SETTINGS,
            },
        )
        # A ping is three round trips of a request's ten, and tells no more than the closed socket.
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self, reach: Reach) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed when the block ends, undone when it raises.

        A cancelled block's connection is cut off and thrown away: an answer may still be on its
        way in it, and the next user must never read it. Closing it politely would take as long as
        the server likes, and hold a place in the pool meanwhile.
        """
        session = self._sessions()
        driver: asyncpg.Connection | None = None
        try:
            driver = await _driver_of(session)
            await _set_reach(session, reach)
            yield session
            await session.commit()
        except asyncio.CancelledError:
            if driver is not None:
                driver.terminate()
            await asyncio.shield(session.invalidate())
            raise
        finally:
            await asyncio.shield(session.close())

    async def ping(self) -> None:
        """Raises when the database does not answer."""
        async with self.transaction(OfNobody()) as session:
            await session.execute(text("SELECT 1"))

    def connections_out(self) -> int:
        """Connections that are lent out now; 0 when nobody works."""
        pool = self.engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def close(self) -> None:
        """Close every pooled connection."""
        await self.engine.dispose()


def _refuse_closed(adapted: Any, _record: object, _proxy: object) -> None:
    """A pooled connection whose server went away is replaced before anybody meets it."""
    if adapted.driver_connection.is_closed():
        raise DisconnectionError("the server has closed this connection")


def async_url(url: str) -> str:
    """The URL with the driver's name in it; its TLS parameters go to the driver, as `dsn`."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return f"postgresql+asyncpg{separator}{rest}" if scheme.startswith("postgres") else url


def utc_now() -> dt.datetime:
    """The clock that a process is built with; tests bring their own."""
    return dt.datetime.now(dt.UTC)


async def _driver_of(session: AsyncSession) -> asyncpg.Connection | None:
    """The driver's own connection under a session's, checked out of the pool by asking."""
    pooled = await (await session.connection()).get_raw_connection()
    return pooled.driver_connection


async def enter_tenant(session: AsyncSession, tenant_id: str) -> None:
    """Go on as this tenant, once a proof or a password has led to it."""
    await _set_local(session, "prefill.tenant", tenant_id)


async def _set_reach(session: AsyncSession, reach: Reach) -> None:
    match reach:
        case OfOneTenant(tenant_id):
            await enter_tenant(session, tenant_id)
        case OfProof(digest):
            await _set_local(session, "prefill.proof", digest)
        case OfOperator(tenant_id):
            await session.execute(text(f"SET LOCAL ROLE {OPERATOR_ROLE}"))
            if tenant_id:
                await enter_tenant(session, tenant_id)
        case OfNobody():
            pass


async def _set_local(session: AsyncSession, name: str, value: str) -> None:
    await session.execute(
        text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}
    )
