"""A gateway that comes back: the same answers from the same folder, a higher epoch, one owner."""

import errno
import os

import pytest
from hand_client import refused
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.epoch import EPOCH_FILE, next_epoch
from prefill_data.metering.segments import SPOOL_FILE
from prefill_data.metering.spool import Spool
from prefill_wire.status import StatusCode

S = StatusCode


async def restarted(cloud):
    await cloud.stop_gateway()
    await cloud.start_gateway()


async def test_the_same_claim_gets_the_same_bytes_after_a_restart(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    answer = await hand.claim(chunks)
    await restarted(cloud)
    assert await hand.claim(chunks) == answer
    assert len(cloud.receipts) == 1
    async with refused(S.ROOT_MISMATCH):
        await hand.claim(chunks, root=b"r" * 32)
    hand.tenant = "bolt"
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.claim(chunks)
    hand.tenant = "acme"
    cloud.clock.advance(10_000)
    async with refused(S.LEASE_EXPIRED):
        await hand.claim(chunks)
    await restarted(cloud)
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.claim(chunks)
    assert len(cloud.receipts) == 1  # the receipt itself stays


async def test_what_was_not_claimed_is_not_billed_after_a_restart(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    first = hand.accept
    await restarted(cloud)
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.claim(chunks)
    assert cloud.receipts == []
    await hand.open()
    assert hand.accept.request_id != first.request_id
    assert hand.accept.fencing_epoch > first.fencing_epoch
    await hand.prompt()
    await hand.claim(await hand.download())


@pytest.mark.parametrize("seconds", [0, -3600, 3600])
async def test_the_epoch_rises_whatever_the_clock_says(cloud, seconds):
    epochs = [cloud.parts.rules.epoch]
    for _ in range(3):
        cloud.clock.advance(seconds)
        await restarted(cloud)
        epochs.append(cloud.parts.rules.epoch)
    assert epochs == sorted(set(epochs))


async def test_two_gateways_on_one_folder_are_refused(cloud):
    epoch_file = cloud.folder / "spool" / EPOCH_FILE
    before = epoch_file.read_text()
    with pytest.raises(DataPlaneError, match="another gateway") as caught:
        await cloud.start_gateway()
    assert "PREFILL_SPOOL_DIR" in caught.value.remedy
    assert epoch_file.read_text() == before
    await restarted(cloud)  # the twin: alone it may


@pytest.mark.parametrize("text", ["", "soon", "-5", "é"])
def test_a_damaged_epoch_is_refused_by_name(tmp_path, text):
    (tmp_path / EPOCH_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(DataPlaneError, match="does not hold a number"):
        next_epoch(tmp_path, 5)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_epoch_that_cannot_be_made_durable_is_not_used(tmp_path, monkeypatch, call):
    def broken(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert next_epoch(tmp_path, 5) == 5
    with monkeypatch.context() as patch:
        target = "pathlib.Path.replace" if call == "replace" else "prefill_data.gateway.epoch.os"
        patch.setattr(target if call == "replace" else f"{target}.fsync", broken)
        with pytest.raises(DataPlaneError, match="No space") as caught:
            next_epoch(tmp_path, 9)
    assert caught.value.code is S.STORAGE_EXHAUSTED
    assert next_epoch(tmp_path, 0) == 6


def test_a_spool_folder_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / SPOOL_FILE).mkdir()
    with pytest.raises(DataPlaneError, match="cannot be opened"):
        Spool(tmp_path)


def test_a_record_that_cannot_be_taken_back_ends_the_spool(tmp_path, monkeypatch):
    spool = Spool(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(os, "ftruncate", full)
        for _ in range(2):
            with pytest.raises(DataPlaneError) as caught:
                spool.append_all([b"one"], 0)
            assert type(caught.value).__name__ == "SpoolLost"
    with pytest.raises(DataPlaneError):
        spool.append_all([b"two"], 0)
    spool.close()
    records = []
    Spool(tmp_path, lambda place, body: records.append(body) or 0).close()
    assert records == []
