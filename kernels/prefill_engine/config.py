"""What the engine reads from a checkpoint's config.json, and the configs it refuses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from prefill_engine.errors import UnsupportedConfig

KV_A_NORM_EPS = 1e-6  # the release's modelling code; vLLM takes 1e-5 here
CONV_WIDTH = 4
FOREIGN = (
    "gate_lower_bound",
    "attn_res_block_size",
    "q_lora_rank",
    "rope_scaling",
    "quantization_config",
)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a hybrid model; `kda_layers` and `sparse_layers` hold 0-based indices."""

    vocab_size: int
    hidden: int
    layers: int
    kda_layers: frozenset[int]
    sparse_layers: frozenset[int]
    kda_heads: int
    kda_dim: int
    heads: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    latent: int
    experts: int
    experts_per_token: int
    groups: int
    top_groups: int
    renormalize: bool
    routed_scale: float
    eps: float
    dense_size: int
    expert_size: int
    shared_experts: int
    context_tokens: int
    tied: bool

    @property
    def row(self) -> int:
        """Elements of one cached token of one MLA layer: normed latent, then k_pe."""
        return self.latent + self.rope_dim


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """Sizes of a supported config; `UnsupportedConfig` names what is not."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MAPPINGS:
        raise UnsupportedConfig(
            f"model_type {kind!r} is not supported", f"use one of {sorted(MAPPINGS)}"
        )
    return MAPPINGS[kind](config)


def _refuse(name: str, value: object) -> None:
    raise UnsupportedConfig(
        f"config {name}={value!r} describes another model under model_type kimi_linear",
        "use a checkpoint without it",
    )


def _check(config: Mapping[str, Any]) -> None:
    for name in FOREIGN:
        if config.get(name) is not None:
            _refuse(name, config[name])
    linear = config.get("linear_attn_config") or {}
    if linear.get("gate_lower_bound") is not None:
        _refuse("linear_attn_config.gate_lower_bound", linear["gate_lower_bound"])
    allowed: dict[str, object] = {
        "hidden_act": "silu",
        "moe_router_activation_func": "sigmoid",
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc",
        "mla_use_nope": True,
        "attention_bias": False,
    }
    for name, value in allowed.items():
        if config.get(name, value) != value:
            _refuse(name, config[name])
    heads = config["num_attention_heads"]
    if (config.get("num_key_value_heads") or heads) != heads:
        _refuse("num_key_value_heads", config["num_key_value_heads"])
    width = linear.get("short_conv_kernel_size", config.get("linear_conv_kernel_dim", CONV_WIDTH))
    if width != CONV_WIDTH:
        _refuse("short_conv_kernel_size", width)


def _kinds(config: Mapping[str, Any], name: str, known: set[str], layers: int) -> list[str]:
    kinds = list(config[name])
    if len(kinds) != layers or not set(kinds) <= known:
        raise UnsupportedConfig(
            f"config {name}={kinds!r} does not give each of {layers} layers one of {sorted(known)}",
            "correct the list",
        )
    return kinds


def _kda_layers(config: Mapping[str, Any], layers: int) -> frozenset[int]:
    if config.get("layer_types"):
        kinds = _kinds(config, "layer_types", {"linear_attention", "full_attention"}, layers)
        return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")
    linear = config.get("linear_attn_config") or {}
    if "kda_layers" not in linear or "full_attn_layers" not in linear:
        raise UnsupportedConfig(
            "config.json names no layer pattern", "add linear_attn_config, as released"
        )
    kda, full = set(linear["kda_layers"]), set(linear["full_attn_layers"])
    if kda & full or kda | full != set(range(1, layers + 1)):
        raise UnsupportedConfig(
            f"linear_attn_config does not name each of {layers} layers once", "correct the lists"
        )
    return frozenset(i - 1 for i in kda)


def _sparse_layers(config: Mapping[str, Any], layers: int) -> frozenset[int]:
    if config.get("mlp_layer_types"):
        kinds = _kinds(config, "mlp_layer_types", {"dense", "sparse"}, layers)
        return frozenset(i for i, kind in enumerate(kinds) if kind == "sparse")
    return frozenset(range(config.get("first_k_dense_replace", 1), layers))


def _kimi_linear(config: Mapping[str, Any]) -> ModelConfig:
    try:
        _check(config)
        sizes = _kimi_sizes(config)
    except KeyError as missing:
        raise UnsupportedConfig(
            f"config.json lacks {missing.args[0]!r}", "restore it from the release"
        ) from None
    _check_sizes(sizes)
    return sizes


def _check_sizes(sizes: ModelConfig) -> None:
    """Every size is a whole number from 1 on, and those that depend on each other agree."""
    for field in fields(sizes):
        value = getattr(sizes, field.name)
        if field.type == "int" and (type(value) is not int or value < 1):
            raise UnsupportedConfig(f"the size {field.name} is {value!r}", "restore config.json")
    if sizes.experts_per_token > sizes.experts:
        raise UnsupportedConfig(
            f"{sizes.experts_per_token} experts per token of {sizes.experts}", "restore config.json"
        )
    if sizes.experts % sizes.groups or sizes.top_groups > sizes.groups:
        raise UnsupportedConfig(
            f"{sizes.experts} experts in {sizes.groups} groups, {sizes.top_groups} used",
            "restore config.json",
        )


def _kimi_sizes(config: Mapping[str, Any]) -> ModelConfig:
    linear = config.get("linear_attn_config") or {}
    layers = int(config["num_hidden_layers"])

    def either(release: str, ours: str, default: Any) -> Any:
        return config.get(release, config.get(ours, default))

    return ModelConfig(
        vocab_size=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=layers,
        kda_layers=_kda_layers(config, layers),
        sparse_layers=_sparse_layers(config, layers),
        kda_heads=linear.get("num_heads", config.get("linear_num_heads", 32)),
        kda_dim=linear.get("head_dim", config.get("linear_head_dim", 128)),
        heads=config["num_attention_heads"],
        nope_dim=config["qk_nope_head_dim"],
        rope_dim=config["qk_rope_head_dim"],
        v_dim=config["v_head_dim"],
        latent=config["kv_lora_rank"],
        experts=either("num_experts", "num_local_experts", 256),
        experts_per_token=either("num_experts_per_token", "num_experts_per_tok", 8),
        groups=either("num_expert_group", "n_group", 1),
        top_groups=config.get("topk_group") or 1,
        renormalize=either("moe_renormalize", "norm_topk_prob", True),
        routed_scale=config.get("routed_scaling_factor", 2.446),
        eps=config.get("rms_norm_eps", 1e-5),
        dense_size=config["intermediate_size"],
        expert_size=config.get("moe_intermediate_size", config["intermediate_size"]),
        shared_experts=either("num_shared_experts", "n_shared_experts", 1),
        context_tokens=int(either("model_max_length", "max_position_embeddings", 1 << 20)),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


# One entry per model family: qwen3_next will be another.
MAPPINGS: Mapping[str, Callable[[Mapping[str, Any]], ModelConfig]] = {"kimi_linear": _kimi_linear}
