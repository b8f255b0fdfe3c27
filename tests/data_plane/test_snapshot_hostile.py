"""A Redis that lags, lies or is written in by others: it may withhold, and nothing more."""

import asyncio
import contextlib

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.gateway import snapshot_feed
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotState
from prefill_data.redis_client import connect
from prefill_fleet.names import tenant_key
from prefill_fleet.snapshot import LimitNumbers
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client
from snapshot_scene import CONTROL, S, Scene, entry, key, proof

BOLT = (key(key_id="key_b", proof=proof("pck_b")),)
AT_MOST_SECONDS = 20


@pytest.fixture
async def scene(redis_server):
    control = Client.from_url(redis_server.url("control"))
    gateway = Client.from_url(redis_server.url("gateway"))
    async for name in control.scan_iter("prefill:*"):
        await control.delete(name)
    yield Scene(control, gateway)
    await control.aclose()
    await gateway.aclose()


async def test_a_value_of_another_type_holds_up_its_own_tenant_alone(scene):
    await scene.publish(entry(), entry("bolt", keys=BOLT))
    await scene.client.delete(tenant_key("acme"))
    await scene.client.rpush(tenant_key("acme"), b"no string")
    await scene.refresh()
    assert scene.code("pck_b") is S.OK
    assert scene.code() is S.NETWORK_UNAVAILABLE
    await scene.publish(entry(), entry("bolt", keys=BOLT))
    await scene.refresh()
    assert scene.code() is S.OK


async def test_a_key_whose_entry_is_withheld_is_not_called_unknown(scene):
    await scene.publish(entry(), entry("bolt", keys=BOLT))
    await scene.client.delete(tenant_key("acme"))
    await scene.refresh()
    assert scene.code() is S.NETWORK_UNAVAILABLE
    assert scene.code("pck_nobody") is S.NETWORK_UNAVAILABLE  # it may be acme's
    assert scene.code("pck_b") is S.OK
    await scene.publish(entry(), entry("bolt", keys=BOLT))
    await scene.refresh()
    assert scene.code() is S.OK
    assert scene.code("pck_nobody") is S.KEY_NOT_FOUND


async def test_a_new_key_whose_entry_is_withheld_is_not_called_unknown(scene):
    await scene.publish(entry("bolt", keys=()))
    await scene.refresh()
    assert scene.code("pck_b") is S.KEY_NOT_FOUND
    await scene.publish(entry("bolt", keys=BOLT))
    await scene.client.set(tenant_key("bolt"), b"another's")
    await scene.refresh()
    assert scene.code("pck_b") is S.NETWORK_UNAVAILABLE


async def test_a_key_that_went_since_it_was_checked_has_no_terms(scene):
    mine = LimitNumbers(requests_per_second=5)
    await scene.publish(entry(keys=(key(limits=mine),)))
    await scene.refresh()
    found = scene.keys.check((("authorization", "Bearer pck_secret_of_acme"),), "10.0.0.1")
    assert scene.keys.terms(found).key_limits == mine
    await scene.publish(entry(keys=()))
    await scene.refresh()
    with pytest.raises(DataPlaneError) as refused:  # not terms without the key's own limits
        scene.keys.terms(found)
    assert refused.value.code is S.KEY_NOT_FOUND


async def test_a_withheld_entry_does_not_make_the_roll_come_again(scene, monkeypatch):
    rolls, read = [], SnapshotFeed._roll

    async def counted(feed, digest):
        rolls.append(digest)
        return await read(feed, digest)

    monkeypatch.setattr(SnapshotFeed, "_roll", counted)
    await scene.publish(entry())
    await scene.client.delete(tenant_key("acme"))
    for _ in range(5):
        await scene.refresh()
    assert len(rolls) == 1
    await scene.publish(entry())
    await scene.publish(entry("bolt", keys=BOLT))
    await scene.refresh()
    assert len(rolls) == 2
    assert scene.code("pck_b") is S.OK


class Liar:
    """Greets as Redis does, and gives one answer to everything else."""

    def __init__(self, answer):
        self.answer, self.asked, self.enough = answer, 0, asyncio.Event()

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, EOFError):
            while True:
                command = await self.command(reader)
                if command == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif command == b"CLIENT":
                    writer.write(b"+OK\r\n")
                else:
                    self.asked += 1
                    writer.write(self.answer)
                if self.asked == 10:
                    self.enough.set()
        writer.close()

    @staticmethod
    async def command(reader):
        words = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            length = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(length + 2))[:-2])
        return words[0]


@pytest.mark.parametrize(
    "answer",
    [
        b":7\r\n",
        b"_\r\n",
        b"*1\r\n:1\r\n",
        b"*0\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"$words\r\n",
        b"?what\r\n",
        b">1\r\n:1\r\n",
        b"-ERR no\r\n",
        b"$3\r\nabc\r\n",
    ],
)
async def test_a_redis_that_answers_nonsense_is_as_good_as_away(answer, monkeypatch):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 0)
    liar, state = Liar(answer), SnapshotState()
    async with await asyncio.start_server(liar.serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"redis://127.0.0.1:{port}/0") as redis:
            feed = SnapshotFeed(redis, CONTROL.public_bytes, state, CollectorRegistry())
            await feed.first_look()
            watching = asyncio.create_task(feed.watch())
            async with asyncio.timeout(AT_MOST_SECONDS):
                ended = asyncio.ensure_future(liar.enough.wait())
                await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            assert not watching.done()
            assert state.beat is None
            watching.cancel()
            await asyncio.wait({watching}, timeout=AT_MOST_SECONDS)
            assert watching.cancelled()
