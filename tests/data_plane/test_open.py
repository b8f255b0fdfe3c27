"""Open: every field refused by name, who may ask, where it is sent, what it may cost."""

import pytest
from hand_client import refused
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.fleet import WorkerLink
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode
from stand_in_backend import IDENTITY, MAX_TOKENS

S = StatusCode


def model(**changes):
    """The served identity with some fields changed."""
    message = IDENTITY.message()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


SPOILT = {
    "no tokens": ({"token_count": 0}, S.EMPTY_PROMPT, "0 tokens"),
    "one token": ({"token_count": 1}, S.EMPTY_PROMPT, "1 tokens"),
    "too long": ({"token_count": MAX_TOKENS + 1}, S.PROMPT_TOO_LONG, f"takes {MAX_TOKENS}"),
    "absurdly long": ({"token_count": 2**64 - 1}, S.PROMPT_TOO_LONG, "takes"),
    "no version": ({"wire_versions": ()}, S.UNSUPPORTED_WIRE_VERSION, "spoken here is 1"),
    "newer version": ({"wire_versions": (2, 3)}, S.UNSUPPORTED_WIRE_VERSION, "[2, 3]"),
    "many versions": ({"wire_versions": [1] * 33}, S.MALFORMED_REQUEST, "wire_versions"),
    "no codec": ({"codecs": ()}, S.UNSUPPORTED_CODEC, "supported"),
    "unknown codec": ({"codecs": ("lossy",)}, S.UNSUPPORTED_CODEC, "lossy"),
    "unknown policy": ({"codec_policy": "best"}, S.UNSUPPORTED_CODEC, "near-lossless"),
    "long policy": ({"codec_policy": "x" * 5000}, S.MALFORMED_REQUEST, "codec_policy"),
    "long codec": ({"codecs": ("x" * 5000,)}, S.MALFORMED_REQUEST, "codecs"),
    "short digest": ({"prompt_digest": b"d" * 31}, S.MALFORMED_REQUEST, "prompt_digest"),
    "no digest": ({"prompt_digest": b""}, S.MALFORMED_REQUEST, "prompt_digest"),
    "short public key": ({"one_time_public_key": b"k"}, S.MALFORMED_REQUEST, "one_time_public_key"),
    "zero public key": (
        {"one_time_public_key": bytes(32)}, S.MALFORMED_REQUEST, "one_time_public_key"),
    "low-order public key": (
        {"one_time_public_key": b"\1" + bytes(31)}, S.MALFORMED_REQUEST, "one_time_public_key"),
    "no idempotency key": ({"idempotency_key": ""}, S.MALFORMED_REQUEST, "idempotency_key"),
    "long idempotency key": (
        {"idempotency_key": "x" * 129}, S.MALFORMED_REQUEST, "129 characters"),
    "no deadline": ({"deadline_ms": 0}, S.MALFORMED_REQUEST, "deadline_ms"),
    "block hashes": ({"block_hashes": [b"h" * 32]}, S.MALFORMED_REQUEST, "block_hashes"),
    "block hash size": (
        {"token_count": 512, "block_size_tokens": 512, "block_hashes": [b"h"]},
        S.MALFORMED_REQUEST, "block hash"),
    "block size": (
        {"token_count": 512, "block_size_tokens": 64, "block_hashes": [b"h" * 32]},
        S.MALFORMED_REQUEST, "block_size_tokens"),
    "many wishes": ({"datacenters": ["eu"] * 33}, S.MALFORMED_REQUEST, "datacenters"),
    "empty wish": ({"datacenters": [""]}, S.MALFORMED_REQUEST, "datacenters"),
    "long residency": ({"residency": ["eu", "x" * 9000]}, S.MALFORMED_REQUEST, "residency"),
    "no model": ({"model": None}, S.MALFORMED_REQUEST, "model"),
    "long model name": ({"model": model(name="x" * 300)}, S.MALFORMED_REQUEST, "model"),
    "no profile": ({"model": model(numerics_profile="")}, S.MALFORMED_REQUEST, "profile"),
    "short fingerprint": ({"model": model(fingerprint=b"m")}, S.MALFORMED_REQUEST, "fingerprint"),
    "unknown model": ({"model": model(name="big")}, S.UNKNOWN_MODEL, "served are tiny"),
    "other weights": ({"model": model(fingerprint=b"x" * 32)}, S.MODEL_MISMATCH, "weights"),
    "other tokenizer": (
        {"model": model(tokenizer_fingerprint=b"x" * 32)}, S.MODEL_MISMATCH, "tokenizer"),
    "other profile": (
        {"model": model(numerics_profile="bf16-cache")}, S.MODEL_MISMATCH, "numerics profile"),
    "price cap": ({"max_price_micros": 19}, S.PRICE_CAP_EXCEEDED, "up to 20 micros, the cap is 19"),
    "residency": ({"residency": ["mars"]}, S.NO_DATACENTER, "mars"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
async def test_a_spoilt_field_is_refused_by_name(cloud, customer, name):
    changes, code, words = SPOILT[name]
    hand = customer()
    async with refused(code) as detail:
        await hand.open(**changes)
    assert words in detail.message
    assert len(cloud.parts.book) == len(cloud.attempts) == 0
    assert (await hand.open()).WhichOneof("outcome") == "accept"  # the twin: unspoilt it passes


async def test_an_accept_says_everything_that_was_decided(cloud, customer):
    hand = customer()
    accept = (await hand.open(max_price_micros=20, datacenters=["mars", "eu"])).accept
    assert (accept.attempt, accept.tenant, accept.datacenter) == (1, "acme", "eu")
    assert accept.wire_version == 1
    assert (accept.price_bound_micros, accept.max_connections) == (20, 4)
    assert accept.data_endpoint == cloud.data_endpoint
    assert not accept.data_tls
    assert accept.fencing_epoch == cloud.parts.rules.epoch
    assert accept.policy_hint.routing_threshold_tokens == 4
    assert 60 <= accept.lease_seconds <= 90


async def test_a_prompt_that_is_local_already_stays_local(cloud, customer):
    hand = customer()
    answer = await hand.open(local_prefix_tokens=19)
    assert answer.WhichOneof("outcome") == "use_local"
    assert "19 of 20" in answer.use_local.reason
    assert len(cloud.parts.book) == 0
    answer = await hand.open(local_prefix_tokens=18)  # the twin
    assert answer.WhichOneof("outcome") == "accept"


@pytest.mark.parametrize("changes", [{"deadline_ms": 1}, {"deadline_ms": 2**64 - 1}])
async def test_the_longest_and_the_shortest_deadline_are_taken(customer, changes):
    accept = (await customer().open(**changes)).accept
    assert accept.lease_seconds <= 660


async def test_a_gateway_without_a_worker_names_no_datacenter(cloud, customer):
    cloud.parts.fleet.links[0].view = None
    async with refused(S.NO_DATACENTER):
        await customer().open()


async def test_a_worker_that_left_is_lost_and_nothing_is_kept(cloud, customer):
    await cloud.stop_worker()
    async with refused(S.WORKER_LOST) as detail:
        await customer().open()
    assert cloud.worker_endpoint in detail.message
    assert len(cloud.parts.book) == 0


async def test_the_next_worker_takes_what_a_full_or_lost_one_does_not(cloud, customer):
    fleet = cloud.parts.fleet
    (link,) = fleet.links
    second = WorkerLink("127.0.0.1:1", link.channel, cloud.worker_settings.fleet_token)
    second.view = link.view
    for code, number in ((S.CAPACITY_EXHAUSTED, 1), (S.WORKER_LOST, 2)):

        async def refusing(_, code=code):
            raise DataPlaneError(code, "not here")

        second.admit = refusing
        fleet.links = (second, link)
        hand = customer(key=code)
        assert (await hand.open()).accept.attempt == number
        await hand.prompt()
        await hand.claim(await hand.download())
        fleet.links = (second,)
        async with refused(code):
            await customer(key=f"alone {code}").open()


async def test_models_are_listed(cloud, customer):
    request = prefill_pb2.ListModelsRequest()
    answer = await cloud.stub.ListModels(request, metadata=customer().metadata)
    (listed,) = answer.models
    assert (listed.identity, list(listed.datacenters)) == (IDENTITY.message(), ["eu"])
    assert listed.max_tokens == MAX_TOKENS


async def test_a_refusal_is_counted_and_logged_with_its_code(cloud, customer, log_lines):
    async with refused(S.PRICE_CAP_EXCEEDED) as detail:
        await customer().open(max_price_micros=1)
    counter = cloud.parts.metrics.refusals
    assert counter.labels(code=S.PRICE_CAP_EXCEEDED)._value.get() == 1
    told = [line for line in log_lines.getvalue().splitlines() if "PRICE_CAP_EXCEEDED" in line]
    assert [f'"request_id": "{detail.request_id}"' in line for line in told] == [True]
    assert detail.request_id.startswith("req_")


async def test_open_requests_are_limited_and_ended_ones_do_not_count(cloud, customer, monkeypatch):
    monkeypatch.setattr("prefill_data.gateway.requests.MAX_OPEN_PER_TENANT", 2)
    first, second, third = (customer(key=str(n)) for n in range(3))
    await first.open()
    await second.open()
    async with refused(S.CAPACITY_EXHAUSTED) as detail:
        await third.open()
    assert "2 requests are open" in detail.message
    await customer("bolt").open()  # another tenant's limit is its own
    await first.cancel()
    await third.open()
    await second.prompt()
    await second.claim(await second.download())
    await customer(key="fourth").open()


async def test_what_is_remembered_is_limited_and_the_dead_make_room(cloud, customer, monkeypatch):
    monkeypatch.setattr("prefill_data.gateway.requests.MAX_HELD_PER_TENANT", 2)
    dead, billed = customer(key="dead"), customer(key="billed")
    await dead.open()
    await dead.cancel()
    await billed.claim(await billed.through())
    fresh = customer(key="fresh")
    await fresh.claim(await fresh.through())  # takes the place of the dead one
    async with refused(S.ATTEMPT_NOT_FOUND):
        await dead.cancel()
    async with refused(S.CAPACITY_EXHAUSTED) as detail:
        await customer(key="more").open()
    assert "lease" in detail.message
