"""What the recorded exchanges are made with, as fixtures."""

import sys
from pathlib import Path

import pytest

# Tests are no package: the recorder beside them, which the golden vectors need too, is found here.
sys.path.insert(0, str(Path(__file__).parent))

from recorded_exchange import MIXED, NOW_MS, make_exchange


@pytest.fixture(scope="session")
def now_ms():
    return NOW_MS


@pytest.fixture(scope="session")
def make():
    return make_exchange


@pytest.fixture(scope="session")
def mixed():
    """Several codecs in one state."""
    return MIXED
