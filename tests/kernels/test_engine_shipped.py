"""The shipped checkpoints: prefill here, decode there, as transformers alone does."""

from __future__ import annotations

import json
import shutil
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


@pytest.mark.nightly
def test_the_recall_model_is_exact_beyond_its_context_too(handoff_type, tmp_path):
    """A copy whose config admits 16,384 tokens: nothing in the computation ends at 4,096."""
    folder = tmp_path / "mqar"
    shutil.copytree(CHECKPOINTS / "mqar", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_max_length"] = 2 * LONG["code-lm"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    handoff = handoff_type(folder)
    outcome = handoff.compare(handoff.prompt(1, LONG["code-lm"]))
    assert outcome.exact, outcome
