"""From a gateway's spool into the ledger's tables: once in effect, whoever dies on the way."""

import asyncio
import datetime as dt
import os
from dataclasses import replace

import msgspec
import pytest
from control_api import CONTROL, FLEET_TOKEN
from prefill_data.fleet_token import fleet_metadata
from prefill_data.metering.courier import PATH, REFUSALS, decode_verdicts, encode_batch
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.shipper import BatchRefused, Shipper
from prefill_data.metering.spool import Spool
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.ids import new_receipt_id, new_request_id
from prefill_wire.receipt import UsageReceipt, sign_receipt
from prefill_wire.signing import SigningKey
from prometheus_client import CollectorRegistry

WORKER = SigningKey.from_seed(b"w" * 32)


class ApiCourier:
    """The shipped encoding, through the real application; `lose`: answers that never arrive."""

    def __init__(self, api):
        self.api, self.lose, self.token = api, 0, FLEET_TOKEN

    async def deliver(self, batch):
        answer = await self.api.client.post(
            PATH,
            content=encode_batch(batch),
            headers={**dict(fleet_metadata(self.token)), "Content-Type": "application/json"},
        )
        if answer.status_code in REFUSALS:
            raise BatchRefused(answer.text)
        if answer.status_code != 200:
            raise ConnectionError(answer.text)
        if self.lose:
            self.lose -= 1
            raise ConnectionError("lost on the way back")
        return decode_verdicts(answer.content, len(batch))


def certificate(api):
    now_ms = int(api.now.timestamp() * 1000)
    made = WorkerCertificate("w1", "fra", WORKER.public_bytes, 0, now_ms + 10**9)
    return issue_certificate(CONTROL, made)


def billed(api, caller, key=WORKER, **changes):
    now_ms = int(api.now.timestamp() * 1000)
    receipt = UsageReceipt(
        receipt_id=new_receipt_id(os.urandom), request_id=new_request_id(os.urandom), attempt=1,
        fencing_epoch=1, tenant=caller.tenant_id, key_id=caller.key_id, model="kimi",
        model_fingerprint=b"f" * 32, datacenter="fra", worker_id="w1", token_count=1000,
        cached_tokens=0, state_bytes_raw=9000, state_bytes_sent=5000, root=b"r" * 32,
        started_at_ms=now_ms - 700, finished_at_ms=now_ms, queue_us=1, prefill_us=2, encode_us=3,
    )  # fmt: skip
    return BilledAttempt(
        request_id=receipt.request_id, attempt=1, tenant=caller.tenant_id, key_id=caller.key_id,
        root=b"r" * 32, chunk_count=3, sealed_manifest=b"m" * 1000,
        receipt=sign_receipt(key, replace(receipt, **changes)), amount_micros=7,
        expires_at_ms=now_ms, certificate=certificate(api),
    )  # fmt: skip


class Gateway:
    """A spool and its shipper; `restart` is a kill between two steps."""

    def __init__(self, folder, courier):
        folder.mkdir()
        self.folder, self.courier = folder, courier
        self.spool = Spool(folder)
        self.restart()

    def restart(self):
        self.registry = CollectorRegistry()
        self.shipper = Shipper(self.spool, self.courier, self.registry, lambda: 0)

    def bill(self, *attempts):
        for attempt in attempts:
            self.spool.append_all([attempt.encode()], 0)

    async def ship_all(self):
        while True:
            try:
                if not await self.shipper.ship():
                    return
            except ConnectionError:
                self.restart()

    def fate(self, name):
        sample = "prefill_gateway_receipts_shipped_total"
        return self.registry.get_sample_value(sample, {"fate": name}) or 0


@pytest.fixture
async def reader(api):
    return await api.caller(scopes=("usage:read", "account:read"))


@pytest.fixture
def gateway(api, tmp_path):
    made = Gateway(tmp_path / "one", ApiCourier(api))
    yield made
    made.spool.close()


async def usage_of(api, reader):
    """Requests, tokens and micros of the caller's account."""
    answer = await api.send(reader, "GET", "/v1/usage")
    items = answer.json()["items"]
    return [(each["requests"], each["tokens"], each["amount_micros"]) for each in items]


async def test_answers_that_are_lost_count_nothing_twice_and_lose_nothing(api, reader, gateway):
    gateway.bill(*(billed(api, reader) for _ in range(150)))
    gateway.courier.lose = 2
    await gateway.ship_all()
    assert await usage_of(api, reader) == [(150, 150_000, 1050)]
    gateway.restart()
    await gateway.ship_all()
    assert await usage_of(api, reader) == [(150, 150_000, 1050)]


async def test_two_gateways_with_the_same_receipts_count_once(api, reader, gateway, tmp_path):
    other = Gateway(tmp_path / "two", ApiCourier(api))
    records = [billed(api, reader) for _ in range(60)]
    gateway.bill(*records)
    other.bill(*reversed(records))
    await asyncio.gather(gateway.ship_all(), other.ship_all())
    assert await usage_of(api, reader) == [(60, 60_000, 420)]
    accepted = gateway.fate("accepted") + other.fate("accepted")
    assert (accepted, gateway.fate("refused") + other.fate("refused")) == (60, 0)
    other.spool.close()


async def test_forged_receipts_are_refused_and_hold_up_no_other(api, reader, gateway):
    stranger = SigningKey.from_seed(b"x" * 32)
    gateway.bill(
        billed(api, reader, key=stranger),
        billed(api, reader, worker_id="w2"),
        billed(api, reader, tenant="ten_of_nobody"),
        billed(api, reader, cached_tokens=2000),
        billed(api, reader),
    )
    await gateway.ship_all()
    assert (gateway.fate("refused"), gateway.fate("accepted")) == (4, 1)
    assert await usage_of(api, reader) == [(1, 1000, 7)]


async def test_a_receipt_that_waited_longer_than_its_workers_certificate(api, reader, gateway):
    within, beyond = billed(api, reader), billed(api, reader)
    ended_ms = int(api.now.timestamp() * 1000)
    short = WorkerCertificate("w1", "fra", WORKER.public_bytes, 0, ended_ms)
    certified = [issue_certificate(CONTROL, replace(short, not_after_ms=ended_ms + extra))
                 for extra in (1, 0)]  # fmt: skip
    gateway.bill(
        msgspec.structs.replace(within, certificate=certified[0]),
        msgspec.structs.replace(beyond, certificate=certified[1]),
    )
    api.now += dt.timedelta(days=3)
    await gateway.ship_all()
    assert (gateway.fate("accepted"), gateway.fate("refused")) == (1, 1)


async def test_without_the_fleets_token_nothing_is_taken(api, reader, gateway):
    gateway.courier.token = b"another token of thirty-two byte"
    gateway.bill(billed(api, reader))
    with pytest.raises(ConnectionError):
        await gateway.shipper.ship()
    gateway.courier.token = FLEET_TOKEN
    await gateway.ship_all()
    assert gateway.fate("accepted") == 1
