"""What a gateway was told of quotas, from one run to the next."""

import asyncio

import pytest
from prefill_data.limits.buckets import TENANT_ITSELF, Bucket, BucketId, Limit
from prefill_data.limits.kept import QUOTA_FILE, ROWS_A_LINE, KeptQuotas
from prefill_data.limits.ledger import Answer
from prefill_data.limits.memory import QuotaMemory

NOW_US = 1_800_000_000_000_000
MANY = 2 * ROWS_A_LINE + 1


def bucket(number=0, capacity=1000):
    name = BucketId(f"t{number}", TENANT_ITSELF, Limit.MONTH_TOKENS, "2027-01")
    return Bucket(name, 0, capacity, ends_at_ms=NOW_US // 1000 + 1000)


def told(memory, number, spent, born_us=1):
    memory.take(bucket(number), Answer(0, 0, 0, born_us, spent), NOW_US, NOW_US)


async def test_the_next_run_knows_what_this_one_was_told(tmp_path):
    memory, after = QuotaMemory(), QuotaMemory()
    kept = KeptQuotas(tmp_path, memory)
    kept.recall()  # a first run has nothing
    for number in range(MANY):
        told(memory, number, number)
    await kept.save()
    KeptQuotas(tmp_path, after).recall()
    assert [(t.bucket, t.spent, t.born_us) for t in after.told.values()] == [
        (bucket(number), number, 1) for number in range(MANY)
    ]
    assert len(after.due(NOW_US)) == 1  # a look, as ever
    told(after, 7, 7, born_us=2)  # one account is lost
    assert bucket(0) in after.due(NOW_US)
    assert bucket(7) not in after.due(NOW_US)


async def test_it_is_written_when_there_is_something_new(tmp_path):
    memory = QuotaMemory()
    kept, path = KeptQuotas(tmp_path, memory), tmp_path / QUOTA_FILE
    await kept.save()
    assert not path.exists()
    told(memory, 0, 5)
    await kept.save()
    path.unlink()
    told(memory, 0, 5)  # nothing new
    await kept.save()
    assert not path.exists()
    told(memory, 0, 6)
    await kept.save()
    assert b"t0" in path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b'[["t0"]]\n', b"\0" * 64, b'[[{"id": 1}]]'])
def test_a_damaged_file_is_no_memory_and_no_obstacle(tmp_path, content):
    (tmp_path / QUOTA_FILE).write_bytes(content)
    memory = QuotaMemory()
    KeptQuotas(tmp_path, memory).recall()
    assert not memory.told


async def test_a_disk_that_fails_is_tried_again(tmp_path):
    memory, folder = QuotaMemory(), tmp_path / "away"
    kept = KeptQuotas(folder, memory)
    told(memory, 0, 5)
    await kept.save()
    folder.mkdir()
    await kept.save()
    assert [path.name for path in folder.iterdir()] == [QUOTA_FILE]


async def test_it_keeps_up_by_itself(tmp_path):
    memory, path = QuotaMemory(), tmp_path / QUOTA_FILE
    running = asyncio.create_task(KeptQuotas(tmp_path, memory).run(0))
    try:
        async with asyncio.timeout(10):
            for spent in (5, 6):
                told(memory, 0, spent)
                while not path.exists() or b'"t0"' not in path.read_bytes():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                path.unlink()
    finally:
        running.cancel()
