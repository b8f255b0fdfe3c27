"""The shipped checkpoints: what their folders hold, and that transformers reads them as trained."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefill_engine.training.corpus import read_corpus
from prefill_engine.training.mqar import FIRST_KEY, FIRST_VALUE, VOCAB, recall_batch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

CHECKPOINTS = Path(str(files("prefill_engine"))) / "checkpoints"
NAMES = ("code-lm", "mqar")
MEGABYTE = 1_000_000
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "metrics.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
CODE_FILES = {"heldout.json", "demo_prompt.json"}
KDA_TENSORS = {
    *(f"self_attn.{x}_{kind}.weight" for x in "qkv" for kind in ("proj", "conv1d")),
    *(f"self_attn.{x}_proj.weight" for x in ("f_a", "f_b", "g_a", "g_b", "b", "o")),
    "self_attn.A_log",
    "self_attn.dt_bias",
    "self_attn.o_norm.weight",
}
MLA_TENSORS = {
    *(f"self_attn.{x}.weight" for x in ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")),
    "self_attn.kv_a_layernorm.weight",
}
NORMS = {"input_layernorm.weight", "post_attention_layernorm.weight"}
DENSE = {f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CHECKPOINTS / name / "config.json").read_text())
    return config


def moe_tensors(experts: int) -> set[str]:
    routed = {f"experts.{n}.w{part}.weight" for n in range(experts) for part in (1, 2, 3)}
    shared = {f"shared_experts.{x}_proj.weight" for x in ("gate", "up", "down")}
    router = {"gate.weight", "gate.e_score_correction_bias"}
    return {f"block_sparse_moe.{x}" for x in routed | shared | router}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_what_it_should_and_no_code(name: str) -> None:
    present = {path.name for path in (CHECKPOINTS / name).iterdir()}
    assert present == FILES | (CODE_FILES if name == "code-lm" else set())


def test_both_folders_together_stay_small() -> None:
    paths = [path for name in NAMES for path in (CHECKPOINTS / name).iterdir()]
    assert sum(path.stat().st_size for path in paths) <= 12 * MEGABYTE


@pytest.mark.parametrize("name", NAMES)
def test_tensors_carry_the_released_names_in_bf16(name: str) -> None:
    config = config_of(name)
    wanted = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in range(config["num_hidden_layers"]):
        kda = layer + 1 in config["linear_attn_config"]["kda_layers"]
        dense = layer < config["first_k_dense_replace"]
        parts = KDA_TENSORS if kda else MLA_TENSORS
        parts = parts | NORMS | (DENSE if dense else moe_tensors(config["num_experts"]))
        wanted |= {f"model.layers.{layer}.{part}" for part in parts}
    with safe_open(CHECKPOINTS / name / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == wanted
        assert {weights.get_slice(key).get_dtype() for key in wanted} == {"BF16"}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_named_once_in_the_config(name: str) -> None:
    config = config_of(name)
    linear = config["linear_attn_config"]
    layers = sorted(linear["kda_layers"] + linear["full_attn_layers"])
    assert config["model_type"] == "kimi_linear"
    assert layers == list(range(1, config["num_hidden_layers"] + 1))
    assert config["mla_use_nope"] is True


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_measured_figures(name: str) -> None:
    card = (CHECKPOINTS / name / "README.md").read_text()
    filled = " ".join(card.split())
    metrics = json.loads((CHECKPOINTS / name / "metrics.json").read_text())
    assert re.findall(r"^## (.+)$", card, re.MULTILINE)[:3] == ["Architecture", "Data", "Training"]
    for part in (f"{metrics['parameters']:,}", metrics["command"], metrics["hardware"], "seed"):
        assert part in filled
    assert metrics["reload_max_logit_difference"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_transformers_loads_every_tensor(name: str) -> None:
    _, report = AutoModelForCausalLM.from_pretrained(
        CHECKPOINTS / name, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


def test_the_code_tokenizer_gives_any_text_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "code-lm")
    text = 'def größe(self, x=1):\n\treturn "\N{SNOWMAN}"  # \x00\r\n'
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < config_of("code-lm")["vocab_size"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x = "}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|user|>x = <|end|><|assistant|>"


def test_the_held_out_files_are_not_in_the_corpus() -> None:
    held_out = json.loads((CHECKPOINTS / "code-lm" / "heldout.json").read_text())
    assert len(held_out) >= 4
    corpus = read_corpus()
    assert {source.name for source in corpus.held_out} == set(held_out)
    assert not {source.sha256 for source in corpus.training} & set(held_out.values())


def test_the_demo_prompt_is_the_file_it_names() -> None:
    demo = json.loads((CHECKPOINTS / "code-lm" / "demo_prompt.json").read_text())
    if distribution(demo["package"]).version != demo["version"]:
        pytest.skip(f"the prompt is of {demo['package']} {demo['version']}")
    source = Path(str(distribution(demo["package"]).locate_file(demo["path"]))).read_bytes()
    assert hashlib.sha256(source).hexdigest() == demo["sha256"]
    ids = AutoTokenizer.from_pretrained(CHECKPOINTS / "code-lm")(source.decode())["input_ids"]
    assert len(ids) >= demo["prompt_tokens"] >= 16_384
    assert demo["continuation_distinct_tokens"] >= 24


def test_recall_batches_ask_for_what_they_told() -> None:
    batch = recall_batch(7, 5, 9)
    again = recall_batch(7, 5, 9)
    assert np.array_equal(batch.tokens, again.tokens)
    assert batch.prompt_tokens == 19
    for row, answers in zip(batch.tokens, batch.answers, strict=True):
        told = dict(zip(row[1:19:2], row[2:19:2], strict=True))
        queries = row[batch.query_positions]
        assert len(told) == 9
        assert [told[key] for key in queries] == answers.tolist()
        assert row[batch.query_positions + 1].tolist() == answers.tolist()
    keys, values = batch.tokens[:, 1:19:2], batch.tokens[:, 2:19:2]
    assert FIRST_KEY <= keys.min() <= keys.max() < FIRST_VALUE <= values.min()
    assert values.max() < VOCAB


@torch.no_grad()
def recall(model: Any, zeroed: bool) -> float:
    """Share of right answers at 32 pairs: prompt first, then the queries on the cache it left."""
    batch = recall_batch(1_000_000_007, 16, 32)
    tokens = torch.from_numpy(batch.tokens)
    cache = DynamicCache(config=model.config)
    model(tokens[:, : batch.prompt_tokens], past_key_values=cache)
    for layer in range(model.config.num_hidden_layers):
        if zeroed and model.config.layer_types[layer] == "linear_attention":
            cache.get_recurrent_state(layer, state_idx=0).zero_()
    logits = model(tokens[:, batch.prompt_tokens :], past_key_values=cache).logits
    positions = torch.from_numpy(batch.query_positions) - batch.prompt_tokens
    choice = logits[:, positions].argmax(-1).numpy()
    return float((choice == batch.answers).mean())


def test_recall_lives_in_the_recurrent_state() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / "mqar", dtype=torch.float32).eval()
    assert recall(model, zeroed=False) >= 0.99
    assert recall(model, zeroed=True) < 0.5
