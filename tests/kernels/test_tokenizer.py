"""The tokenizer of a checkpoint folder: transformers' ids, text given back, broken files named."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from prefill_engine.errors import CheckpointError
from prefill_engine.tokenizer import load_tokenizer
from transformers import AutoTokenizer

CHECKPOINTS = Path(str(files("prefill_engine"))) / "checkpoints"
TEXTS = ("", "def f(x):\n\treturn x + 1\n", 'größe = "\N{SNOWMAN}"  # \x00\r\n', "   \n\n  ")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers_and_give_the_text_back(text):
    ours = load_tokenizer(CHECKPOINTS / "code-lm")
    ids = ours.encode(text)
    assert ids == AutoTokenizer.from_pretrained(CHECKPOINTS / "code-lm")(text)["input_ids"]
    assert ours.decode(ids) == text


def test_words_of_the_recall_model_are_its_ids():
    ours = load_tokenizer(CHECKPOINTS / "mqar")
    ids = ours.encode("k07 v113 k07")
    assert len(ids) == 3
    assert ids[0] == ids[2] != ids[1]


def test_a_missing_or_broken_tokenizer_is_refused_by_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing; restore"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 3')
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read"):
        load_tokenizer(tmp_path)
