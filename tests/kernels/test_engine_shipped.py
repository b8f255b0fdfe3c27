"""The shipped checkpoints: prefill here, decode there, as transformers alone does."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

CHECKPOINTS = Path(str(files("prefill_engine"))) / "checkpoints"
LENGTHS = (2, 63, 64, 65, 1_000, 2_049)
LONG = {"code-lm": 16_384, "mqar": 4_000}  # mqar's context is 4,096 tokens


@pytest.fixture(scope="module", params=["code-lm", "mqar"])
def handoff(request, handoff_type):
    return handoff_type(CHECKPOINTS / request.param)


@pytest.mark.parametrize("length", LENGTHS)
def test_it_continues_as_transformers_does(handoff, length):
    outcome = handoff.compare(handoff.prompt(1, length))
    assert outcome.exact, outcome


def test_it_continues_a_long_prompt_as_transformers_does(handoff):
    outcome = handoff.compare(handoff.prompt(2, LONG[handoff.folder.name]))
    assert outcome.exact, outcome


def test_the_comparison_notices_a_wrong_state(handoff, wrong_state):
    tokens = handoff.prompt(3, 300)
    assert not handoff.compare(tokens, **wrong_state(300)).exact
