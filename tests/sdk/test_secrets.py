"""No prompt id, no text and no key in any log line, error or representation."""

import logging

import pytest
from counting_engine import CountingEngine, Letters
from loopback_cloud import API_KEY
from prefill_cloud import PrefillCloudError
from prefill_cloud.logs import logger
from prefill_wire.status import StatusCode

PROMPT = [77_700_001 + i for i in range(12)]
SECRETS = [API_KEY, *(str(token) for token in PROMPT), "attack at dawn"]


def told(records):
    """Which secrets are somewhere in these log records."""
    said = " ".join(record.getMessage() for record in records)
    return [secret for secret in SECRETS if secret in said]


FAULTS = {
    "none": {},
    "refused": {"refuse": {"Open": StatusCode.TOKEN_OUT_OF_RANGE}},
    "worker lost": {"fail_at": (3, StatusCode.WORKER_LOST)},
    "flipped": {"flip": 2},
    "restarting": {"unavailable": {"Open": 1, "Claim": 2}},
    "broken": {"break_after": {2: 1}},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("prompt", [PROMPT, "attack at dawn, with everything"], ids=["ids", "text"])
async def test_no_secret_is_told(cloud, connect, caplog, fault, prompt):
    for name, value in FAULTS[fault].items():
        getattr(cloud.faults, name).update(value) if isinstance(value, dict) else setattr(
            cloud.faults, name, value
        )
    caplog.set_level(logging.DEBUG)
    engine = CountingEngine(vocabulary=Letters())
    said = []
    async with connect(cloud) as client:
        session = client.session(engine)
        try:
            said.append(repr(await session.generate(prompt, max_new_tokens=4)))
        except PrefillCloudError as error:
            said += [str(error), repr(error)]
        said += [repr(client), repr(client._exchange), repr(session), repr(engine.loaded)]
    assert told(caplog.records) == []
    assert [secret for secret in SECRETS if secret in " ".join(said)] == []


async def test_every_line_carries_the_request_id(cloud, connect, caplog):
    caplog.set_level(logging.DEBUG, "prefill_cloud")
    cloud.faults.fail_at = (3, StatusCode.WORKER_LOST)
    async with connect(cloud) as client:
        await client.session(CountingEngine()).generate(PROMPT, max_new_tokens=4)
    lines = [r.getMessage() for r in caplog.records if r.name == "prefill_cloud"]
    assert [line.split()[0] for line in lines] == [
        "event=accepted", "event=given_up", "event=fell_back",
    ]  # fmt: skip
    assert all(cloud.only.accept.request_id in line for line in lines)


def test_the_detector_fires(caplog):
    caplog.set_level(logging.INFO)
    logger("req_1").info("tokens", ids=PROMPT[:1], key=API_KEY)
    assert told(caplog.records) == [API_KEY, str(PROMPT[0])]
