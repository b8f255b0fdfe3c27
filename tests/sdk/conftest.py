"""The loopback cloud, and a client of it whose patience is short."""

import sys
from pathlib import Path

import pytest
from prefill_cloud import AsyncClient
from prefill_cloud.clock import Backoff
from prefill_cloud.tuning import Tuning

# Tests are no package: the shipped class beside them is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))

from loopback_cloud import API_KEY, LoopbackCloud

QUICK = Tuning(
    call_seconds=2.0, stall_seconds=0.2, backoff=Backoff(first_seconds=0.001, most_seconds=0.01)
)


@pytest.fixture
def quick():
    return QUICK


@pytest.fixture
async def cloud():
    async with LoopbackCloud() as running:
        yield running


@pytest.fixture
def connect():
    """A client of a cloud that promises equal bytes; options replace the quick defaults."""

    def make(cloud, **options):
        usual = {"tuning": QUICK, "codec_policy": "exact"}
        options = {"control_public_key": cloud.control_public_key, **usual, **options}
        return AsyncClient(cloud.endpoint, options.pop("api_key", API_KEY), **options)

    return make
