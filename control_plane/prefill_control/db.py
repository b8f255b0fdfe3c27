"""One engine per process, one transaction per request or task; only this boundary commits.

The role that logs in sees nothing by itself. A transaction names the tenant it is for (`prefill.
tenant`), or becomes the operator role, or carries the digest of a secret that was shown
(`prefill.proof`), which reveals the one row that the digest names. That is said together with its
BEGIN, in one round trip, and not before something is asked of the database: what never asks, such
as a key check whose caller is known, takes no connection.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import Connection, Executable, Row, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, SessionTransaction
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


class Driver(asyncpg.Connection):  # type: ignore[misc]  # the driver comes without types
    """The driver's connection; `opening` goes to the server together with the next BEGIN."""

    opening = ""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As the driver's own; a transaction that did not open as it should ends the connection."""
        if not query.startswith("BEGIN"):
            return str(await super().execute(query, *args, **options))
        query, self.opening = query + self.opening, ""
        try:
            return str(await super().execute(query, **options))
        except BaseException:
            self.terminate()
            raise


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
                "connection_class": Driver,
            },
        )
        # A ping is as many round trips as a request has, and tells no more than the closed socket.
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self, reach: Reach) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed when the block ends, undone when it raises.

        A cancelled block's connection is cut off and thrown away: an answer may still be on its
        way in it, and the next user must never read it. Closing it politely would take as long as
        the server likes, and hold a place in the pool meanwhile.
        """
        session = self._sessions()
        used: list[Driver] = []
        event.listen(session.sync_session, "after_begin", partial(_open, reach, used))
        try:
            yield session
            await session.commit()
        except asyncio.CancelledError:
            _cut_off(used)
            await asyncio.shield(session.invalidate())
            raise
        finally:
            await asyncio.shield(session.close())

    async def row(self, statement: Executable, values: dict[str, Any]) -> Row[Any] | None:
        """The first row of one statement that is a transaction of its own: one round trip."""
        used: list[Driver] = []
        connection: AsyncConnection = await self._single.connect()
        try:
            used.append(_driver_of(await connection.get_raw_connection()))
            return (await connection.execute(statement, values)).first()
        except asyncio.CancelledError:
            _cut_off(used)
            await asyncio.shield(connection.invalidate())
            raise
        finally:
            await asyncio.shield(connection.close())

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
    driver: Driver = adapted.driver_connection
    if driver.is_closed():
        raise DisconnectionError("the server has closed this connection")
    driver.opening = ""  # its last user may never have asked anything


def async_url(url: str) -> str:
    """The URL with the driver's name in it; its TLS parameters go to the driver, as `dsn`."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return f"postgresql+asyncpg{separator}{rest}" if scheme.startswith("postgres") else url


def utc_now() -> dt.datetime:
    """The clock that a process is built with; tests bring their own."""
    return dt.datetime.now(dt.UTC)


def _driver_of(pooled: Any) -> Driver:
    """The driver's own connection under a pooled one."""
    driver = pooled.driver_connection
    if not isinstance(driver, Driver):
        raise TypeError("a connection that this engine did not open")
    return driver


def _open(
    reach: Reach, used: list[Driver], _session: Session, _: SessionTransaction, bound: Connection
) -> None:
    """A session begins: who it is for is said with the BEGIN."""
    driver = _driver_of(bound.connection)
    driver.opening = _opening(reach)
    used.append(driver)


def _cut_off(used: list[Driver]) -> None:
    for driver in used:
        driver.terminate()


async def enter_tenant(session: AsyncSession, tenant_id: str) -> None:
    """Go on as this tenant, once a proof or a password has led to it."""
    named = text("SELECT set_config('prefill.tenant', :value, true)")
    await session.execute(named, {"value": tenant_id})


def _opening(reach: Reach) -> str:
    match reach:
        case OfOneTenant(tenant_id):
            return _local("prefill.tenant", tenant_id)
        case OfProof(digest):
            return _local("prefill.proof", digest)
        case OfOperator(tenant_id):
            named = _local("prefill.tenant", tenant_id) if tenant_id else ""
            return f"SET LOCAL ROLE {OPERATOR_ROLE};{named}"
        case OfNobody():
            return ""


def _local(name: str, value: str) -> str:
    """A setting of this transaction; the value as a literal, for BEGIN takes no parameters."""
    if "\\" in value or "\x00" in value:
        raise ValueError(f"{name} holds a character that no id and no digest has")
    return "SET LOCAL {} = '{}';".format(name, value.replace("'", "''"))
