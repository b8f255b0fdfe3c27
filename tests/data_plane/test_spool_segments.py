"""Segments of the spool: cut, read on, deleted, and whole again after a kill at any step."""

import os
from itertools import count

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.metering.frames import MAX_RECORD_BYTES, RECORD_OVERHEAD_BYTES, pack
from prefill_data.metering.segments import SPOOL_FILE, SpoolDamaged
from prefill_data.metering.spool import Spool, read_receipts
from prefill_wire.status import StatusCode

SMALL = 200  # bytes of a segment: four of the records below
FOREVER = 10**15
STEPS = ("open", "fsync", "pwrite", "ftruncate", "unlink")


class Killed(BaseException):
    """The process is no more."""


def body(number):
    return b"record %05d" % number


def recalled(folder):
    """What a gateway that starts here is given."""
    found = []
    spool = Spool(folder, lambda place, each: found.append(each) or 0, SMALL)
    spool.close()
    return found


def files(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith(SPOOL_FILE))


class Owner:
    """The gateway of a folder: one spool at a time."""

    def __init__(self, folder):
        self.folder, self.spool = folder, None

    def start(self, recall=lambda place, each: 0):
        self.stop()
        self.spool = Spool(self.folder, recall, SMALL)
        return self.spool

    def stop(self):
        if self.spool is not None:
            self.spool.close()
        self.spool = None


@pytest.fixture
def owner(tmp_path):
    made = Owner(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def spool(owner):
    return owner.spool


def fill(spool, numbers, until_ms=0):
    return [spool.append_all([body(n)], until_ms)[0] for n in numbers]


def test_a_full_segment_is_followed_by_the_next_and_all_come_back_in_order(tmp_path, owner, spool):
    fill(spool, range(20))
    assert len(files(tmp_path)) == 5
    assert all((tmp_path / name).stat().st_size <= SMALL for name in files(tmp_path))
    assert read_receipts(tmp_path) == [body(n) for n in range(20)]
    owner.stop()
    assert recalled(tmp_path) == [body(n) for n in range(20)]


def test_a_record_larger_than_a_segment_has_one_of_its_own(tmp_path, spool):
    for size in (10, 5 * SMALL, 10):
        spool.append_all([b"x" * size], 0)
    assert len(files(tmp_path)) == 3
    assert [len(each) for each in read_receipts(tmp_path)] == [10, 5 * SMALL, 10]


def test_only_what_is_shipped_and_has_no_lease_is_deleted(tmp_path, spool):
    fill(spool, range(8), until_ms=50)
    fill(spool, range(8, 12), until_ms=70)
    whole, end = files(tmp_path), spool.durable_bytes
    assert spool.retire(0, FOREVER) == 0  # nothing is shipped
    assert spool.retire(end, 49) == 0  # every lease runs
    assert files(tmp_path) == whole
    assert spool.retire(SMALL, 50) == 1
    assert spool.retire(end, 60) == 1
    assert spool.retire(end, FOREVER) == 0  # the last one is never deleted
    assert len(files(tmp_path)) == 1
    assert (spool.oldest_bytes, spool.durable_bytes) == (2 * end // 3, end)


def test_after_a_restart_only_live_segments_are_read_and_places_go_on(tmp_path, owner, spool):
    kept = fill(spool, range(10))[-1]
    end = spool.durable_bytes
    spool.retire(end, FOREVER)
    owner.stop()
    assert recalled(tmp_path) == [body(8), body(9)]
    spool = owner.start()
    assert spool.durable_bytes == end
    assert spool.read(kept) == body(9)
    assert fill(spool, [10])[0].at_bytes == end


def test_leases_of_an_earlier_run_keep_a_segment(owner, spool):
    fill(spool, range(5))
    spool = owner.start(lambda place, each: 70)
    assert spool.retire(spool.durable_bytes, 69) == 0
    assert spool.retire(spool.durable_bytes, 70) == 1


def test_every_record_is_read_back_from_its_place(tmp_path, spool):
    places = fill(spool, range(9)) + spool.append_all([body(n) for n in range(9, 12)], 0)
    assert [spool.read(place) for place in places] == [body(n) for n in range(12)]
    spool.retire(spool.durable_bytes, FOREVER)
    with pytest.raises(DataPlaneError) as gone:
        spool.read(places[0])
    assert gone.value.code is StatusCode.LEASE_EXPIRED
    path = tmp_path / files(tmp_path)[0]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SpoolDamaged, match=f"{path.name} is damaged at byte"):
        spool.read(places[-1])


def test_a_gap_among_segments_is_damage(tmp_path, owner, spool):
    fill(spool, range(12))
    owner.stop()
    middle = tmp_path / files(tmp_path)[1]
    held = middle.read_bytes()
    middle.unlink()
    with pytest.raises(SpoolDamaged, match="does not begin where it ends"):
        Spool(tmp_path)
    middle.write_bytes(held[:-1])  # a tear in any but the last
    with pytest.raises(SpoolDamaged, match=middle.name):
        Spool(tmp_path)
    middle.write_bytes(held)
    owner.start()


@pytest.mark.parametrize("count_of_group", [1, 3])
def test_a_group_torn_at_any_byte_is_cut_in_the_last_segment(tmp_path, count_of_group):
    spool = Spool(tmp_path, segment_bytes=SMALL)
    fill(spool, range(5))
    before = [body(n) for n in range(5)]
    path = tmp_path / files(tmp_path)[-1]
    whole = path.stat().st_size
    spool.append_all([body(n) for n in range(5, 5 + count_of_group)], 0)
    spool.close()
    data = path.read_bytes()
    for size in range(whole, len(data)):
        path.write_bytes(data[:size])
        assert recalled(tmp_path) == before
        assert path.stat().st_size == whole
    for at in range(whole, len(data)):  # pages that never reached the disk
        path.write_bytes(data[:at] + bytes(len(data) - at))
        assert recalled(tmp_path) == before or data[at:].strip(b"\0") == b""
    path.write_bytes(data)
    assert len(recalled(tmp_path)) == 5 + count_of_group


def test_a_group_is_one_record_to_the_disk_and_many_to_the_reader(tmp_path, spool, monkeypatch):
    synced, whole = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), whole(file))[1])
    places = spool.append_all([b"a", b"", b"ccc"], 0)
    assert len(synced) == 1
    assert [spool.read(place) for place in places] == [b"a", b"", b"ccc"]
    half = MAX_RECORD_BYTES // 2
    with pytest.raises(DataPlaneError, match=f"over {MAX_RECORD_BYTES}"):
        spool.append_all([b"x" * half, b"x" * half], 0)
    assert len(pack([b"a"])) == RECORD_OVERHEAD_BYTES + 1  # as older gateways wrote it


def test_a_new_segment_that_cannot_be_made_is_tried_again(tmp_path, spool, monkeypatch):
    fill(spool, range(4))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("prefill_data.metering.spool.sync_folder", full)
        with pytest.raises(DataPlaneError, match="No space") as caught:
            spool.append_all([body(4)], 0)
    assert caught.value.code is StatusCode.STORAGE_EXHAUSTED
    # What would fit into the old one must not go there: the new one's name says where that ended.
    spool.append_all([b"x"], 0)
    assert len(files(tmp_path)) == 2
    assert read_receipts(tmp_path)[-1] == b"x"


class Life:
    """A gateway's work with its spool until it is killed before, or right after, one step."""

    def __init__(self, folder):
        self.folder, self.acknowledged, self.deletable = folder, [], 0

    def run(self):
        spool = Spool(self.folder, segment_bytes=SMALL)
        try:
            for number in range(12):
                spool.append_all([body(number)], number)
                self.acknowledged.append(number)
                if number % 5 == 4:
                    self.deletable = number
                    spool.retire(spool.durable_bytes, number)
        finally:
            spool.close()


def killed_at(step, after, monkeypatch, folder):
    """One life; whether its end came before the work was done."""
    life, steps = Life(folder), count(1)

    def wrapped(whole):
        def call(*given, **named):
            now = next(steps) == step
            if now and not after:
                raise Killed
            result = whole(*given, **named)
            if now:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, wrapped(getattr(os, name)))
        try:
            life.run()
        except Killed:
            return life, True
    return life, False


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_step_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch, after):
    for step in count(1):
        folder = tmp_path / str(step)
        folder.mkdir()
        life, killed = killed_at(step, after, monkeypatch, folder)
        found = recalled(folder)
        numbers = [int(each.split()[1]) for each in found]
        assert numbers == list(range(12))[numbers[0] if numbers else 0 :][: len(numbers)]
        assert set(life.acknowledged) - set(numbers) <= set(range(life.deletable + 1))
        assert not numbers or numbers[-1] >= max(life.acknowledged, default=0)
        spool = Spool(folder, segment_bytes=SMALL)
        fill(spool, [99])
        spool.close()
        assert recalled(folder) == [*found, body(99)]
        if not killed:
            break
    assert step > 40  # every step of appending, cutting and deleting was one


def test_the_detector_of_lost_records_fires(tmp_path):
    life = Life(tmp_path)
    life.run()
    last = tmp_path / files(tmp_path)[-1]
    last.write_bytes(b"")
    numbers = [int(each.split()[1]) for each in recalled(tmp_path)]
    assert not set(life.acknowledged) - set(numbers) <= set(range(life.deletable + 1))
