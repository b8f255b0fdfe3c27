"""API keys: every status refused by name, a changed file in force at once, a damaged one not."""

import json

import grpc
import pytest
from hand_client import detail_of, refused
from in_process_cloud import KEYS, bearer, write_keys
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

S = StatusCode
STATUSES = {
    "REVOKED": S.KEY_REVOKED,
    "EXPIRED": S.KEY_EXPIRED,
    "NOT_FOUND": S.KEY_NOT_FOUND,
    "RATE_LIMITED": S.RATE_LIMITED,
    "QUOTA_EXCEEDED": S.QUOTA_EXCEEDED,
    "BUDGET_EXHAUSTED": S.BUDGET_EXHAUSTED,
    "TENANT_SUSPENDED": S.TENANT_SUSPENDED,
}
WRONG = {
    "none": (),
    "empty": (("authorization", ""),),
    "no scheme": (("authorization", KEYS["acme"]),),
    "other scheme": (("authorization", f"Basic {KEYS['acme']}"),),
    "unknown": (("authorization", "Bearer pk_test_nobody"),),
    "one off": (("authorization", f"Bearer {KEYS['acme'][:-1]}"),),
    "with a blank": (("authorization", f"Bearer  {KEYS['acme']}"),),
    "long": (("authorization", "Bearer " + "x" * 4000),),
}


async def calls_of(cloud, metadata):
    """The codes that each of the five calls is refused with."""

    async def parts():
        yield prefill_pb2.PromptPart(request_id="req", attempt=1)

    stub, codes = cloud.stub, []
    for call in (
        stub.Open(prefill_pb2.OpenRequest(), metadata=metadata),
        stub.Prompt(parts(), metadata=metadata),
        stub.Claim(prefill_pb2.ClaimRequest(), metadata=metadata),
        stub.Cancel(prefill_pb2.CancelRequest(), metadata=metadata),
        stub.ListModels(prefill_pb2.ListModelsRequest(), metadata=metadata),
    ):
        try:
            await call
            codes.append("OK")
        except grpc.aio.AioRpcError as error:
            codes.append(detail_of(error).code)
    return codes


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_key_opens_no_call(cloud, name):
    assert await calls_of(cloud, WRONG[name]) == [S.KEY_NOT_FOUND] * 5


async def test_the_right_key_gets_past_the_check_in_every_call(cloud):
    codes = await calls_of(cloud, bearer())
    assert codes == [S.EMPTY_PROMPT, *[S.ATTEMPT_NOT_FOUND] * 3, "OK"]


@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_in_the_changed_file_is_in_force_at_once(cloud, customer, status):
    await customer().open()
    write_keys(cloud.key_file, acme={"status": status})
    async with refused(STATUSES[status]) as detail:
        await customer(key="other").open()
    assert "key_acme" in detail.message
    await customer("bolt").open()
    write_keys(cloud.key_file)
    await customer(key="other").open()


async def test_a_key_expires_by_the_clock(cloud, customer):
    write_keys(cloud.key_file, acme={"expires_at_ms": cloud.clock() + 60_000})
    await customer().open()
    cloud.clock.advance(60)
    async with refused(S.KEY_EXPIRED):
        await customer(key="other").open()


DAMAGED = {
    "empty": b"",
    "torn": b'{"keys": [{"key_id"',
    "no json": b"\xff\xfe",
    "other form": b'{"keys": [{"key_id": "k"}]}',
    "unknown status": json.dumps(
        {"keys": [{"key_id": "k", "tenant": "t", "sha256": "0", "status": "FINE"}]}
    ).encode(),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_file_leaves_the_last_good_one_in_force(cloud, customer, log_lines, name):
    write_keys(cloud.key_file, bolt={"status": "REVOKED"})
    cloud.key_file.write_bytes(DAMAGED[name])
    for number in range(3):
        await customer(key=str(number)).open()
    assert log_lines.getvalue().count('"event": "key file"') == 1
    write_keys(cloud.key_file, acme={"status": "REVOKED"})
    async with refused(S.KEY_REVOKED):
        await customer(key="after").open()


async def test_a_file_that_is_gone_leaves_the_last_good_one_in_force(cloud, customer):
    cloud.key_file.unlink()
    await customer().open()
    write_keys(cloud.key_file, acme={"status": "REVOKED"})
    async with refused(S.KEY_REVOKED):
        await customer(key="after").open()
