"""The shape of a tiny Kimi Linear and its config as the released checkpoint writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny Kimi Linear; layer numbers are 1-based as in the released config."""

    vocab_size: int
    hidden_size: int
    dense_size: int
    kda_layers: tuple[int, ...]
    mla_layers: tuple[int, ...]
    kda_heads: int
    kda_head_dim: int
    mla_heads: int = 4
    latent_size: int = 128
    nope_dim: int = 32
    rope_dim: int = 16
    value_dim: int = 32
    experts: int = 0
    experts_per_token: int = 2
    expert_size: int = 0
    max_tokens: int = 65536


def make_config(shape: Shape) -> dict[str, Any]:
    """The config as the released checkpoint writes it, `linear_attn_config` included."""
    layers = len(shape.kda_layers) + len(shape.mla_layers)
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.dense_size,
        "moe_intermediate_size": shape.expert_size or shape.dense_size,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.mla_heads,
        "num_key_value_heads": shape.mla_heads,
        "num_experts": max(shape.experts, 2),
        "num_experts_per_token": shape.experts_per_token,
        "num_shared_experts": 1,
        "num_expert_group": 1,
        "topk_group": 1,
        "moe_renormalize": True,
        "routed_scaling_factor": 1.0,
        "moe_layer_freq": 1,
        "moe_router_activation_func": "sigmoid",
        "topk_method": "noaux_tc",
        "use_grouped_topk": True,
        "num_nextn_predict_layers": 0,
        "first_k_dense_replace": 1 if shape.experts else layers,
        "kv_lora_rank": shape.latent_size,
        "q_lora_rank": None,
        "qk_nope_head_dim": shape.nope_dim,
        "qk_rope_head_dim": shape.rope_dim,
        "v_head_dim": shape.value_dim,
        "mla_use_nope": True,
        "linear_attn_config": {
            "kda_layers": list(shape.kda_layers),
            "full_attn_layers": list(shape.mla_layers),
            "num_heads": shape.kda_heads,
            "head_dim": shape.kda_head_dim,
            "short_conv_kernel_size": 4,
        },
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "model_max_length": shape.max_tokens,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
