"""How often a request goes to the database and back: that is most of what it costs."""

import asyncio
import os

import pytest
from prefill_control.access.secrets import KEY_PREFIX
from prefill_control.db import OfNobody, OfOneTenant, OfOperator
from sqlalchemy import event, text

NAMED = text("SELECT current_setting('prefill.tenant', true), current_user")


class Trips:
    """Everything that goes to the database: statements, and what opens and ends transactions."""

    def __init__(self, engine):
        self.statements, self.around = [], []
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "before_cursor_execute", self._asked)

    def _connected(self, adapted, _record):
        adapted.driver_connection.add_query_logger(lambda record: self.around.append(record.query))

    def _asked(self, _connection, _cursor, statement, *_):
        self.statements.append(statement)

    async def taken(self):
        """What went there since the last time; the driver tells of it a turn of the loop later."""
        await asyncio.sleep(0)
        found = self.statements[:], self.around[:]
        self.statements.clear()
        self.around.clear()
        return found


@pytest.fixture
def trips(api):
    return Trips(api.parts.database.engine.sync_engine)


async def test_a_stranger_s_read_goes_there_and_back_four_times(api, trips):
    caller = await api.caller()
    for path in ("/v1/keys", "/v1/tenants"):
        await trips.taken()
        assert (await api.send(caller, "GET", path)).status_code == 200
        (who, _), (begin, commit) = await trips.taken()
        assert "prefill_caller" in who
        assert begin.startswith("BEGIN")
        assert begin.endswith(f";SET LOCAL prefill.tenant = '{caller.tenant_id}';")
        assert commit == "COMMIT;"


async def test_a_key_check_is_one_look_up_and_opens_nothing(api, trips):
    operator, caller = await api.operator(), await api.caller()
    await trips.taken()
    answer = await api.send(operator, "POST", "/v1/key-checks", {"secret": caller.secret})
    assert answer.json()["status"] == "VALID"
    statements, around = await trips.taken()
    assert len(statements) == 2  # the operator's own key, and the one that is asked about
    assert all("prefill_caller" in statement for statement in statements)
    assert not around


async def test_a_key_that_nobody_has_costs_the_look_up_of_one_that_somebody_has(api, trips):
    caller = await api.caller()
    for secret in (caller.secret, api.parts.pepper.new_secret(KEY_PREFIX, os.urandom).text):
        await trips.taken()
        shown = {"Authorization": f"Bearer {secret}"}
        refused = await api.client.get("/v1/audit-rows", headers=shown)
        assert refused.status_code in (401, 403)
        (who,), around = await trips.taken()
        assert "prefill_caller" in who
        assert not around


@pytest.mark.parametrize(
    ("reach", "wanted"),
    [
        (OfOneTenant("ten_a"), ("ten_a", "prefill_app")),
        (OfOperator("ten_a"), ("ten_a", "prefill_operator")),
        (OfOperator(), ("", "prefill_operator")),
    ],
    ids=["tenant", "operator for one", "operator"],
)
async def test_a_reach_ends_with_its_transaction(database, reach, wanted):
    for here, there in ((reach, wanted), (OfNobody(), ("", "prefill_app"))):
        async with database.transaction(here) as session:
            tenant, role = (await session.execute(NAMED)).one()
        assert (tenant or "", role) == there
    async with database.engine.connect() as connection:
        tenant, role = (await connection.execute(NAMED)).one()
    assert (tenant or "", role) == ("", "prefill_app")


async def test_a_session_that_asked_nothing_leaves_its_reach_to_nobody(database):
    async with database.transaction(OfOneTenant("ten_a")) as session:
        await session.connection()  # checked out, and never used
    async with database.engine.connect() as connection:
        tenant, _ = (await connection.execute(NAMED)).one()
    assert not tenant


async def test_a_reach_cannot_break_out_of_its_literal(database):
    async with database.transaction(OfOneTenant("a'; SET ROLE prefill_operator; --")) as session:
        tenant, role = (await session.execute(NAMED)).one()
    assert (tenant, role) == ("a'; SET ROLE prefill_operator; --", "prefill_app")
    with pytest.raises(ValueError, match=r"prefill\.tenant"):
        async with database.transaction(OfOneTenant("a\\")) as session:
            await session.execute(NAMED)


async def test_a_transaction_that_cannot_open_takes_its_connection_with_it(database, monkeypatch):
    async with database.transaction(OfNobody()) as session:
        await session.execute(NAMED)
    monkeypatch.setattr("prefill_control.db.OPERATOR_ROLE", "no_such_role")
    with pytest.raises(Exception, match="no_such_role"):
        async with database.transaction(OfOperator()) as session:
            await session.execute(NAMED)
    assert database.connections_out() == 0
    async with database.transaction(OfNobody()) as session:
        assert (await session.execute(NAMED)).one()[1] == "prefill_app"


async def test_a_cancelled_look_up_leaves_its_answer_to_nobody(database):
    mark = text("SELECT CAST(:mark AS text)")
    cancelled = 0
    for turn in range(400):
        patience = turn % 16  # how many turns of the loop a look-up takes differs
        task = asyncio.create_task(database.row(mark, {"mark": "left"}))
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        cancelled += isinstance((await asyncio.gather(task, return_exceptions=True))[0],
                                asyncio.CancelledError)  # fmt: skip
        assert database.connections_out() == 0
        assert (await database.row(mark, {"mark": "next"}))[0] == "next"
    assert cancelled > 20
