"""What the engine reads from a config.json, and every config it refuses, by name."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from prefill_engine.config import ModelConfig, parse_config
from prefill_engine.engine import StepEngine
from prefill_engine.errors import CheckpointError, UnsupportedConfig

SHIPPED = Path(str(files("prefill_engine"))) / "checkpoints" / "mqar"
LINEAR = "linear_attn_config"
ONE_LAYER_MORE = {
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", *["linear_attention"] * 3],
    "mlp_layer_types": ["dense"] * 4,
}


def released(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((SHIPPED / "config.json").read_text())
    return {**config, **changes}


def linear(**changes: Any) -> dict[str, Any]:
    return released(**{LINEAR: {**released()[LINEAR], **changes}})


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in released().items() if name not in names}


def test_the_released_form_is_read():
    sizes = parse_config(released())
    assert (sizes.kda_layers, sizes.sparse_layers) == (frozenset({1, 2}), frozenset())
    assert (sizes.row, sizes.context_tokens, sizes.kda_heads) == (48, 4_096, 2)


def test_the_form_that_transformers_saves_means_the_same():
    ours = released()
    saved = without(LINEAR, "first_k_dense_replace", "num_experts", "num_experts_per_token")
    saved |= {"layer_types": ["full_attention", "linear_attention", "linear_attention"]}
    saved |= {"mlp_layer_types": ["dense"] * 3, "linear_num_heads": 2, "linear_head_dim": 64}
    saved |= {"num_local_experts": 2, "num_experts_per_tok": 2}
    assert parse_config(saved) == parse_config(ours)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (released(model_type="llama"), "model_type 'llama' is not supported"),
        (without("model_type"), "model_type None"),
        (released(gate_lower_bound=-5.0), "gate_lower_bound=-5.0"),
        (linear(gate_lower_bound=-5.0), r"linear_attn_config.gate_lower_bound=-5.0"),
        (released(attn_res_block_size=12), "attn_res_block_size=12"),
        (released(q_lora_rank=64), "q_lora_rank=64"),
        (released(rope_scaling={"type": "yarn"}), "rope_scaling="),
        (released(quantization_config={"bits": 8}), "quantization_config="),
        (released(hidden_act="situ"), "hidden_act='situ'"),
        (released(moe_router_activation_func="softmax"), "moe_router_activation_func='softmax'"),
        (released(moe_layer_freq=2), "moe_layer_freq=2"),
        (released(topk_method="greedy"), "topk_method='greedy'"),
        (released(mla_use_nope=False), "mla_use_nope=False"),
        (released(attention_bias=True), "attention_bias=True"),
        (released(num_key_value_heads=1), "num_key_value_heads=1"),
        (linear(short_conv_kernel_size=3), "short_conv_kernel_size=3"),
        (without(LINEAR), "names no layer pattern"),
        (linear(kda_layers=[2]), "does not name each of 3 layers once"),
        (linear(kda_layers=[1, 2, 3]), "does not name each of 3 layers once"),
        (released(layer_types=["linear_attention"]), "layer_types=.*each of 3 layers"),
        (released(layer_types=["sliding_attention"] * 3), "layer_types=.*each of 3 layers"),
        (released(mlp_layer_types=["dense", "dense", "wide"]), "mlp_layer_types=.*each of 3"),
        (without("kv_lora_rank"), "lacks 'kv_lora_rank'"),
        (released(hidden_size=0), "hidden is 0"),
        (released(vocab_size="many"), "vocab_size is 'many'"),
        (released(num_experts_per_token=3), "3 experts per token of 2"),
        (released(num_expert_group=3), "2 experts in 3 groups"),
    ],
)
def test_another_model_is_refused_by_name(config, message):
    with pytest.raises(UnsupportedConfig, match=message):
        parse_config(config)


def test_every_refused_config_differs_from_an_accepted_one():
    assert isinstance(parse_config(released()), ModelConfig)
    assert isinstance(parse_config(linear()), ModelConfig)
    assert isinstance(parse_config(without()), ModelConfig)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "tensor model.embed_tokens.weight .* has shape"),
        (ONE_LAYER_MORE, "tensor model.layers.3.* is missing from"),
    ],
)
def test_a_config_of_other_weights_is_refused_by_tensor(tmp_path, change, message):
    folder = shutil.copytree(SHIPPED, tmp_path / "checkpoint")
    (folder / "config.json").write_text(json.dumps(released(**change)))
    with pytest.raises(CheckpointError, match=message):
        StepEngine.load(folder)
