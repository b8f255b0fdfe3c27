"""Random tiny checkpoints from a seed, for tests: every size and pattern the engine claims."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import KimiLinearConfig, KimiLinearForCausalLM

from prefill_engine.training.shapes import Shape, make_config


def random_shape(seed: int) -> Shape:
    """Heads, dims, layer pattern and experts drawn from the seed; at least one layer of a kind."""
    dice = random.Random(seed)  # noqa: S311 (test shapes, not secrets)
    layers = dice.randint(2, 5)
    mla = set(dice.sample(range(1, layers + 1), dice.randint(1, max(1, layers // 2))))
    experts = dice.choice([0, 4, 6])
    return Shape(
        vocab_size=dice.choice([97, 200, 311]),
        hidden_size=dice.choice([32, 48, 80]),
        dense_size=dice.choice([48, 96]),
        kda_layers=tuple(i for i in range(1, layers + 1) if i not in mla),
        mla_layers=tuple(sorted(mla)),
        kda_heads=dice.choice([1, 2, 3]),
        kda_head_dim=dice.choice([16, 32]),
        mla_heads=dice.choice([1, 2, 4]),
        latent_size=dice.choice([16, 40]),
        nope_dim=dice.choice([8, 16, 24]),
        rope_dim=dice.choice([4, 8]),
        value_dim=dice.choice([8, 16]),
        experts=experts,
        experts_per_token=dice.choice([1, 2]),
        expert_size=dice.choice([16, 32]),
        max_tokens=32768,
    )


# The wide model of the speed figures: sizes where matrix products, not overheads, decide.
WIDE = Shape(
    vocab_size=2048,
    hidden_size=1024,
    dense_size=2560,
    kda_layers=(1, 2, 3),
    mla_layers=(4,),
    kda_heads=8,
    kda_head_dim=128,
    mla_heads=8,
    latent_size=512,
    nope_dim=128,
    rope_dim=64,
    value_dim=128,
    experts=8,
    experts_per_token=2,
    expert_size=512,
)


def write_random_checkpoint(folder: Path, seed: int) -> Path:
    """A checkpoint folder as transformers saves it, fp32, weights large enough to matter."""
    return write_checkpoint(folder, random_shape(seed), seed, deviation=0.1)


def write_checkpoint(folder: Path, shape: Shape, seed: int, *, deviation: float) -> Path:
    """A checkpoint of this shape with normal weights, fp32, as transformers saves it."""
    torch.manual_seed(seed)
    config = KimiLinearConfig(**make_config(shape), initializer_range=deviation)
    KimiLinearForCausalLM(config).save_pretrained(folder)
    return folder
