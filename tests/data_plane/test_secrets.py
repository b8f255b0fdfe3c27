"""No prompt, no key and no token in any line that gateway or worker log, in any refusal."""

import grpc
import numpy as np
import pytest
from hand_client import HandClient, refused
from in_process_cloud import FLEET_TOKEN, KEYS, write_keys
from prefill_data.fleet_token import fleet_metadata
from prefill_data.refusals import log as service_log
from prefill_data.settings import ControlLink
from prefill_fleet.pb import fleet_pb2, fleet_pb2_grpc
from prefill_wire.digests import token_bytes
from prefill_wire.status import StatusCode

S = StatusCode
# Ids that no count, port, time or index comes near.
IDS = (271_828_182, 314_159_265, 161_803_398, 141_421_356)
ODD = np.array([*IDS, *range(20)], np.uint32)


def found_secrets(text, *more):
    """Every secret that a text gives away, in the forms that a log line could have."""
    raw = [FLEET_TOKEN, token_bytes(ODD), *more]
    forms = [*KEYS.values(), *(str(each) for each in IDS)]
    forms += [f"{each:,}" for each in IDS] + [f"{each:x}" for each in IDS]
    for secret in raw:
        forms += [secret.hex(), repr(secret)[2:-1], secret.decode("latin-1")]
    return [form for form in forms if form in text]


@pytest.fixture
async def big_vocabulary(cloud, monkeypatch):
    """The odd ids are tokens of this model."""
    monkeypatch.setattr("stand_in_backend.VOCABULARY", 1 << 30)
    await cloud.stop_gateway()
    await cloud.stop_worker()
    cloud.__init__(cloud.folder)
    await cloud.start_worker()
    await cloud.start_gateway()
    return cloud


async def test_a_whole_exchange_logs_no_secret(big_vocabulary, log_lines, caplog, capfd):
    cloud = big_vocabulary
    hand = HandClient(cloud, tokens=ODD)
    chunks = await hand.through()
    claim = await hand.claim(chunks)
    receiver = hand.receiver()
    for chunk in chunks:
        receiver.accept(chunk.header, chunk.ciphertext)
    state = receiver.close(claim.sealed_manifest, claim.receipt, cloud.clock())
    await hand.cancel()
    secrets = (state.manifest.close_key, hand.keys.stream, hand.keys.manifest, hand.keys.connection)
    text = everything(log_lines, caplog, capfd)
    assert '"event": "billed"' in text
    assert found_secrets(text, *secrets) == []
    service_log.info("twin", secret=state.manifest.close_key.hex())
    assert found_secrets(log_lines.getvalue(), *secrets) == [state.manifest.close_key.hex()]


def everything(log_lines, caplog, capfd):
    out, err = capfd.readouterr()
    return log_lines.getvalue() + caplog.text + out + err


async def spoilt_exchanges(cloud):
    """One exchange for each way in which it can be refused after its prompt is known."""
    hand = HandClient(cloud, tokens=ODD, key="range")
    await hand.open()
    async with refused(S.TOKEN_OUT_OF_RANGE):
        await hand.prompt()
    hand = HandClient(cloud, tokens=ODD, key="digest")
    await hand.open(prompt_digest=b"d" * 32)
    async with refused(S.PROMPT_MISMATCH):
        await hand.prompt()
    hand = HandClient(cloud, tokens=ODD, key="long")
    await hand.open()
    async with refused(S.PROMPT_MISMATCH):
        await hand.prompt(list(hand.parts(data=token_bytes(ODD) * 2)))
    for status in ("REVOKED", "EXPIRED", "TENANT_SUSPENDED"):
        write_keys(cloud.key_file, acme={"status": status})
        with pytest.raises(grpc.aio.AioRpcError):
            await HandClient(cloud, tokens=ODD).open()
    cloud.key_file.write_bytes(b"damaged")
    with pytest.raises(grpc.aio.AioRpcError):
        await HandClient(cloud, tokens=ODD).open()
    write_keys(cloud.key_file)
    hand = HandClient(cloud, key="model")
    async with refused(S.UNKNOWN_MODEL):
        await hand.open(model={"name": "x", "fingerprint": b"m" * 32, "numerics_profile": "fp32",
                               "tokenizer_fingerprint": b"t" * 32})  # fmt: skip


async def test_no_refusal_logs_a_secret(cloud, log_lines, caplog, capfd):
    await spoilt_exchanges(cloud)
    async with grpc.aio.insecure_channel(cloud.worker_endpoint) as channel:
        stub = fleet_pb2_grpc.PrefillWorkerStub(channel)
        wrong = fleet_metadata(FLEET_TOKEN[:-1] + b"?")
        async with refused(S.PERMISSION_DENIED):
            await stub.Describe(fleet_pb2.DescribeRequest(), metadata=wrong)
    text = everything(log_lines, caplog, capfd)
    assert text.count('"level": "warning"') >= 7
    assert found_secrets(text, FLEET_TOKEN[:-1]) == []


@pytest.mark.parametrize("secret", [KEYS["acme"], str(IDS[1]), FLEET_TOKEN.hex()])
def test_the_detector_fires(secret):
    assert secret in found_secrets(f'{{"event": "open", "x": "{secret}"}}')
    assert found_secrets('{"event": "open", "tokens": 24}') == []


async def test_no_settings_show_a_secret_when_they_are_printed(cloud):
    told = repr(cloud.worker_settings) + repr(cloud.gateway_settings)
    assert repr(cloud.gateway_settings.fleet_token) not in told
    assert repr(cloud.worker_settings.key_seed) not in told
    link = ControlLink(redis_url="redis://gateway:word@h", api_key_pepper=b"pepper", seed=b"seed")
    assert not [secret for secret in ("word", "pepper'", "seed'") if secret in repr(link)]
    assert cloud.worker_settings.worker_id in told  # the twin: the rest is there
