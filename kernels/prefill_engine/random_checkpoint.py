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


def write_random_checkpoint(folder: Path, seed: int) -> Path:
    """A checkpoint folder as transformers saves it, fp32, weights large enough to matter."""
    torch.manual_seed(seed)
    config = KimiLinearConfig(**make_config(random_shape(seed)), initializer_range=0.1)
    KimiLinearForCausalLM(config).save_pretrained(folder)
    return folder
