"""Receipts reach the control plane at least once, whatever dies, and none holds up the others."""

import asyncio
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prefill_data.errors import SettingsError
from prefill_data.metering import shipper as shipper_module
from prefill_data.metering.courier import HttpCourier, decode_verdicts, encode_batch
from prefill_data.metering.frames import WINDOW_BYTES, whole_frames
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.segments import SPOOL_FILE, SpoolDamaged
from prefill_data.metering.shipper import MAX_LINES, BatchRefused, Shipper, Verdict
from prefill_data.metering.spool import Spool
from prefill_data.metering.tail import (
    MARK_FILE,
    REFUSED_FILE,
    load_mark,
    read_stretch,
    save_mark,
)
from prometheus_client import CollectorRegistry


def billed(number, **changes):
    fields = {
        "request_id": f"req_{number}", "attempt": 1, "tenant": "acme", "key_id": "key_a",
        "root": b"r" * 32, "chunk_count": 3, "sealed_manifest": b"m" * 2000,
        "receipt": b"receipt %d" % number, "amount_micros": number, "expires_at_ms": 1,
        "certificate": b"certificate",
    }  # fmt: skip
    return BilledAttempt(**{**fields, **changes})


@dataclass
class Ledger:
    """A control plane: counts a receipt once. `fails`: how many calls are answered by an error,
    the first of them only after it had counted."""

    counted: list = field(default_factory=list)
    calls: int = 0
    fails: int = 0
    unreadable: frozenset = frozenset()

    async def deliver(self, batch):
        self.calls += 1
        if any(each.request_id in self.unreadable for each in batch):
            raise BatchRefused("HTTP 422")
        verdicts = []
        for each in batch:
            known = each.receipt in self.counted
            if not known:
                self.counted.append(each.receipt)
            verdicts.append(Verdict(each.request_id, "duplicate" if known else "accepted"))
        if self.fails:
            self.fails -= 1
            raise ConnectionError("the answer was lost")
        return verdicts


class Gateway:
    """A spool with records, and the shipper of one run of the process."""

    def __init__(self, folder, ledger):
        self.folder, self.ledger, self.now_ms, self.places = folder, ledger, 0, []
        self.spool = Spool(folder)
        self.start()

    def start(self):
        self.registry = CollectorRegistry()
        self.shipper = Shipper(self.spool, self.ledger, self.registry, lambda: self.now_ms)

    def bill(self, *attempts):
        for attempt in attempts:
            self.places += self.spool.append_all([attempt.encode()], attempt.expires_at_ms)

    async def ship_all(self):
        counts = []
        while count := await self.shipper.ship():
            counts.append(count)
        return counts

    def restart(self, segment_bytes=1 << 30):
        self.spool.close()
        self.spool = Spool(
            self.folder, lambda _, body: BilledAttempt.decode(body).expires_at_ms, segment_bytes
        )
        self.start()

    def shipped(self, fate):
        name = "prefill_gateway_receipts_shipped_total"
        return self.registry.get_sample_value(name, {"fate": fate}) or 0


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path, Ledger())
    yield made
    made.spool.close()


def receipts(count):
    return [billed(n).receipt for n in range(count)]


async def test_every_receipt_is_shipped_once_in_order_and_in_batches(gateway):
    gateway.bill(*(billed(n) for n in range(150)))
    assert await gateway.ship_all() == [MAX_LINES, MAX_LINES, 150 - 2 * MAX_LINES]
    assert gateway.ledger.counted == receipts(150)
    gateway.bill(billed(150))
    assert await gateway.ship_all() == [1]
    assert gateway.ledger.counted == receipts(151)


async def test_nothing_is_sent_again_after_a_restart(gateway):
    gateway.bill(*(billed(n) for n in range(5)))
    await gateway.ship_all()
    calls = gateway.ledger.calls
    gateway.restart()
    assert await gateway.ship_all() == []
    assert gateway.ledger.calls == calls


@pytest.mark.parametrize("mark", [b"", b"{", b'{"end_bytes": 17}', b'{"end_bytes": 999999999}'])
async def test_a_lost_or_wrong_mark_costs_a_repetition_and_no_receipt(gateway, mark):
    gateway.bill(*(billed(n) for n in range(5)))
    await gateway.ship_all()
    (gateway.folder / MARK_FILE).write_bytes(mark)
    gateway.restart()
    await gateway.ship_all()
    assert gateway.ledger.counted == receipts(5)
    assert gateway.shipped("duplicate") == 5


async def test_a_lost_answer_is_asked_for_again_and_counts_once(gateway):
    gateway.bill(*(billed(n) for n in range(5)))
    gateway.ledger.fails = 1
    with pytest.raises(ConnectionError):
        await gateway.shipper.ship()
    gateway.restart()  # killed between the count and the mark
    await gateway.ship_all()
    assert gateway.ledger.counted == receipts(5)
    assert (gateway.shipped("accepted"), gateway.shipped("duplicate")) == (0, 5)


async def test_one_receipt_that_cannot_be_read_holds_up_no_other(gateway):
    gateway.ledger.unreadable = frozenset({"req_2"})
    gateway.bill(*(billed(n) for n in range(5)), billed(5, certificate=b""))
    assert await gateway.ship_all() == [6]
    assert gateway.ledger.counted == [r for n, r in enumerate(receipts(5)) if n != 2]
    assert gateway.shipped("refused") == 2


def number_of(receipt):
    return int(receipt.split()[1])


@pytest.mark.parametrize("spoil", ["body", "length", "all"])
async def test_damage_in_the_middle_is_set_aside_and_all_behind_it_ships(gateway, spoil, log_lines):
    """Beyond the first window, while the gateway runs."""
    gateway.bill(*(billed(n, sealed_manifest=b"m" * 40_000) for n in range(150)))
    places = [place for place in gateway.places if place.at_bytes > 3 * WINDOW_BYTES // 2]
    hurt, path = places[7], gateway.folder / SPOOL_FILE
    data = bytearray(path.read_bytes())
    size = {"body": 1, "length": 4, "all": hurt.size_bytes}[spoil]
    start = hurt.at_bytes + (hurt.size_bytes // 2 if spoil == "body" else 0)
    data[start : start + size] = bytes(each ^ 0xFF for each in data[start : start + size])
    path.write_bytes(data)
    await gateway.ship_all()
    lost = gateway.places.index(hurt)
    assert [number_of(r) for r in gateway.ledger.counted] == [n for n in range(150) if n != lost]
    gateway.bill(billed(150))
    await gateway.ship_all()
    assert number_of(gateway.ledger.counted[-1]) == 150
    assert gateway.shipped("duplicate") == 0
    assert gateway.registry.get_sample_value("prefill_gateway_spool_damaged_total") == 1
    (line,) = [each for each in log_lines.getvalue().splitlines() if "spool damaged" in each]
    told = json.loads(line)
    assert (told["file"], told["at_bytes"]) == (str(path), hurt.at_bytes)
    assert (told["size_bytes"], told["level"]) == (hurt.size_bytes, "error")
    assert told["remedy"]
    aside = gateway.folder / f"receipts.damaged.{hurt.at_bytes:020d}"
    assert aside.read_bytes() == data[hurt.at_bytes : hurt.at_bytes + hurt.size_bytes]
    gateway.restart()  # what was set aside stops no gateway that comes back
    assert await gateway.ship_all() == []
    aside.unlink()  # the twin: what was not set aside does
    gateway.spool.close()
    with pytest.raises(SpoolDamaged):
        Spool(gateway.folder)
    aside.write_bytes(data[hurt.at_bytes : hurt.at_bytes + hurt.size_bytes])
    gateway.spool = Spool(gateway.folder)


async def test_a_damaged_last_record_is_set_aside_and_the_next_one_ships(gateway):
    gateway.bill(billed(0), billed(1))
    path = gateway.folder / SPOOL_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    await gateway.ship_all()
    gateway.bill(billed(2))
    await gateway.ship_all()
    assert gateway.ledger.counted == [billed(0).receipt, billed(2).receipt]


async def test_a_record_of_an_unknown_form_is_refused_and_holds_up_no_other(gateway):
    gateway.bill(billed(0))
    gateway.spool.append_all([b"no record", billed(1).encode()], 0)
    gateway.bill(billed(2))
    await gateway.ship_all()
    assert gateway.ledger.counted == receipts(3)
    assert gateway.shipped("refused") == 1
    assert [frame.bodies for frame in refused_frames(gateway)][1][0] == b"no record"


async def test_a_refused_bill_outlives_its_segment(gateway):
    gateway.restart(segment_bytes=2_000)
    gateway.ledger.unreadable = frozenset({"req_2"})
    gateway.bill(*(billed(n, expires_at_ms=100) for n in range(10)))
    gateway.now_ms = 100
    await gateway.ship_all()
    assert billed(2, expires_at_ms=100).encode() in [
        body for frame in refused_frames(gateway) for body in frame.bodies
    ]


async def test_nothing_is_kept_apart_of_what_was_counted(gateway):
    gateway.bill(*(billed(n) for n in range(3)))
    await gateway.ship_all()
    assert refused_frames(gateway) == []


def refused_frames(gateway):
    """What lies in the files for people."""
    files = sorted(gateway.folder.glob(f"{REFUSED_FILE}.*"))
    return [frame for file in files for frame in whole_frames(file.read_bytes())]


async def test_segments_go_once_they_are_shipped_and_their_leases_are_over(gateway):
    gateway.restart(segment_bytes=5_000)
    gateway.bill(*(billed(n, expires_at_ms=100) for n in range(10)))
    await gateway.ship_all()
    assert gateway.spool.oldest_bytes == 0
    gateway.now_ms = 100
    await gateway.ship_all()  # nothing is left to ship
    assert 0 < gateway.spool.oldest_bytes < gateway.spool.durable_bytes
    gateway.bill(billed(10))
    (gateway.folder / MARK_FILE).unlink()
    gateway.restart()  # whatever is still there comes again, and counts once
    await gateway.ship_all()
    assert gateway.ledger.counted == receipts(11)
    assert gateway.shipped("duplicate") > 0


async def test_a_mark_that_cannot_be_saved_keeps_no_segment(gateway, monkeypatch):
    gateway.restart(segment_bytes=5_000)
    gateway.bill(*(billed(n) for n in range(10)))

    def full(*_):
        raise OSError(28, "No space left on device")

    gateway.now_ms = 100
    with monkeypatch.context() as patch:
        patch.setattr(shipper_module, "save_mark", full)
        with pytest.raises(OSError, match="No space"):
            await gateway.ship_all()
    assert gateway.spool.oldest_bytes > 0
    await gateway.ship_all()
    assert gateway.ledger.counted == receipts(10)
    assert gateway.shipped("duplicate") == 0


async def test_a_group_is_shipped_whole(gateway):
    gateway.spool.append_all([billed(n).encode() for n in range(40)], 0)
    gateway.spool.append_all([billed(n).encode() for n in range(40, 80)], 0)
    assert await gateway.ship_all() == [40, 40]
    assert gateway.ledger.counted == receipts(80)


async def test_what_is_not_durable_yet_stays(gateway):
    gateway.bill(billed(0))
    durable = gateway.spool.durable_bytes
    path = gateway.folder / SPOOL_FILE  # written, its fsync not yet returned:
    path.write_bytes(path.read_bytes() + b"\x10\x00\x00\x00" + b"half a record")
    assert await gateway.ship_all() == [1]
    assert load_mark(gateway.folder) == durable


async def test_the_loop_waits_for_a_control_plane_that_is_away(gateway, monkeypatch):
    monkeypatch.setattr(shipper_module, "FIRST_WAIT_SECONDS", 0)
    gateway.ledger.fails = 3
    gateway.bill(*(billed(n) for n in range(5)))
    running = asyncio.create_task(gateway.shipper.run())
    async with asyncio.timeout(10):
        while not load_mark(gateway.folder):  # noqa: ASYNC110 (a file is watched)
            await asyncio.sleep(0)
    running.cancel()
    assert gateway.ledger.counted == receipts(5)
    assert gateway.ledger.calls == 4


def test_a_stretch_ends_at_a_record_and_begins_where_the_last_one_ended(tmp_path):
    spool = Spool(tmp_path)
    bodies = [bytes([n]) * 700_000 for n in range(7)]
    for body in bodies:
        spool.append_all([body], 0)
    found, at = [], 0
    while at < spool.durable_bytes:
        stretch = read_stretch(tmp_path, at, spool.durable_bytes)
        assert stretch.frames
        found += [body for frame in stretch.frames for body in frame.bodies]
        at += sum(frame.size_bytes for frame in stretch.frames)
    assert found == bodies
    spool.close()


def test_a_mark_is_kept(tmp_path):
    assert load_mark(tmp_path) == 0
    save_mark(tmp_path, 12)
    assert load_mark(tmp_path) == 12


class Answers:
    """An HTTP server that answers as told and keeps what was asked."""

    def __init__(self):
        asked, answers = [], []
        self.asked, self.answers = asked, answers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked.append((self.path, dict(self.headers), json.loads(body)))
                status, text = answers.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                """Tests print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def answers():
    server = Answers()
    yield server
    server.close()


VERDICT = b'{"lines": [{"receipt_id": "rcp_1", "fate": "accepted", "reason": ""}]}'


async def test_the_courier_shows_the_fleets_token_and_brings_the_verdicts(answers):
    answers.answers.append((200, VERDICT))
    courier = HttpCourier(answers.url, b"t" * 32, None)
    assert await courier.deliver([billed(1)]) == [Verdict("rcp_1", "accepted")]
    path, headers, body = answers.asked[0]
    assert path == "/internal/receipts"
    assert headers["prefill-fleet-token"] == (b"t" * 32).hex()
    assert set(body["lines"][0]) == {"receipt", "certificate", "amount_micros", "route_reason"}


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (422, b"{}", BatchRefused),
        (413, b"{}", BatchRefused),
        (401, b"{}", ConnectionError),
        (503, b"{}", ConnectionError),
        (200, b"nonsense", ConnectionError),
        (200, b'{"lines": []}', ConnectionError),
    ],
)
async def test_answers_that_are_no_verdicts(answers, status, answer, error):
    answers.answers.append((status, answer))
    with pytest.raises(error):
        await HttpCourier(answers.url, b"t" * 32, None).deliver([billed(1)])


async def test_a_control_plane_that_is_away_is_worth_another_try():
    with pytest.raises(OSError, match="refused"):
        await HttpCourier("http://127.0.0.1:1", b"t" * 32, None).deliver([billed(1)])


OFF_LOOPBACK = ["http://control:7080", "http://10.0.0.5", "http://127.0.0.1.example"]


@pytest.mark.parametrize("url", ["", "control:7080", "ftp://control", "http://", *OFF_LOOPBACK])
def test_a_url_that_is_none_is_refused_by_name(url):
    with pytest.raises(SettingsError, match="PREFILL_CONTROL_URL"):
        HttpCourier(url, b"t" * 32, None)


def test_a_batch_is_one_line_a_receipt():
    lines = json.loads(encode_batch([billed(1), billed(2, route_reason="fra is nearest")]))["lines"]
    assert [line["amount_micros"] for line in lines] == [1, 2]
    assert [line["route_reason"] for line in lines] == ["", "fra is nearest"]
    assert decode_verdicts(VERDICT, 1) == [Verdict("rcp_1", "accepted")]
