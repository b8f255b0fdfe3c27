"""The recall model's tokenizer: one word per id, `<bos> k07 v113 ...`, split at spaces."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from prefill_engine.training.mqar import BOS, EOS, FIRST_KEY, FIRST_VALUE, KEYS, PAD, VALUES

SPECIAL = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS}


def save_word_tokenizer(folder: Path, max_tokens: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` for the recall model's ids."""
    keys = {f"k{n:02d}": FIRST_KEY + n for n in range(KEYS)}
    values = {f"v{n:03d}": FIRST_VALUE + n for n in range(VALUES)}
    tokenizer = Tokenizer(models.WordLevel({**SPECIAL, **keys, **values}, unk_token="<pad>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
