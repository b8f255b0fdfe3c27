"""The tensors a model's state consists of, from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefill_wire.tensors import Dtype, LayerState, Layout, StateSchema, TensorKind

from prefill_engine.config import CONV_WIDTH, ModelConfig, parse_config
from prefill_engine.errors import UnsupportedConfig

PROFILES: Mapping[str, Dtype] = {"fp32": Dtype.FLOAT32, "bf16-cache": Dtype.BFLOAT16}


def latent_dtype(profile: str) -> Dtype:
    """Element type of the latent cache; a typed refusal of an unknown profile."""
    if profile not in PROFILES:
        raise UnsupportedConfig(
            f"numerics profile {profile!r} is unknown", f"use {' or '.join(sorted(PROFILES))}"
        )
    return PROFILES[profile]


def state_schema(config: Mapping[str, Any], profile: str) -> StateSchema:
    """Schema of a config.json under a numerics profile (`fp32` or `bf16-cache`)."""
    return schema_of(parse_config(config), profile)


def schema_of(model: ModelConfig, profile: str) -> StateSchema:
    """Schema of parsed sizes; a latent row is the normed latent, then k_pe."""
    latent = latent_dtype(profile)
    states: list[LayerState] = []
    h, d = model.kda_heads, model.kda_dim
    for i in range(model.layers):
        if i not in model.kda_layers:
            fields = (i, TensorKind.LATENT_KV, latent, Layout.TOKEN_MAJOR, (model.row,))
            states.append(LayerState(*fields, 1))
            continue
        fp32 = Dtype.FLOAT32
        states.append(LayerState(i, TensorKind.RECURRENT, fp32, Layout.K_FIRST, (h, d, d), h))
        shape = (3 * h * d, CONV_WIDTH - 1)
        states.append(LayerState(i, TensorKind.CONV, fp32, Layout.CHANNEL_MAJOR, shape, h))
    return StateSchema(tuple(states))
