"""A whole Kimi Linear as plain tensors: load once, run any number of sequences."""

from __future__ import annotations

from pathlib import Path

import torch
from prefill_kernels.rows import rms_norm
from prefill_wire.tensors import TensorKind
from torch import Tensor

from prefill_engine.checkpoint_folder import read_config
from prefill_engine.config import ModelConfig, parse_config
from prefill_engine.layers import Experts, Feed, Kda, Mla, Mlp
from prefill_engine.weights import Weights
from prefill_engine.workspace import Workspace

StateTensors = dict[tuple[int, TensorKind], Tensor]


class KimiLinear:
    """Weights in fp32 and the forward pass of one sequence."""

    def __init__(self, folder: Path) -> None:
        """Read a checkpoint folder; raises `CheckpointError` or `UnsupportedConfig`."""
        self.config = config = parse_config(read_config(folder))
        weights, table = Weights(folder), (config.vocab_size, config.hidden)
        self.space = Workspace()
        self.embedding = weights.take("model.embed_tokens.weight", *table)
        untied = not config.tied or weights.has("lm_head.weight")
        self.head = weights.take("lm_head.weight", *table) if untied else self.embedding
        self.norm = weights.take("model.norm.weight", config.hidden)
        self.attention: list[Kda | Mla] = []
        self.feed: list[Feed] = []
        self.norms: list[tuple[Tensor, Tensor]] = []
        for index in range(config.layers):
            prefix = f"model.layers.{index}"
            kind = Kda if index in config.kda_layers else Mla
            self.attention.append(kind(weights, f"{prefix}.self_attn", config))
            self.feed.append(_feed(weights, prefix, config, index))
            names = ("input_layernorm", "post_attention_layernorm")
            first, second = (weights.take(f"{prefix}.{n}.weight", config.hidden) for n in names)
            self.norms.append((first, second))

    @torch.inference_mode()
    def forward(
        self, tokens: Tensor, state: StateTensors, start: int, *, every: bool = False
    ) -> Tensor:
        """Advance `state` over `tokens` `[T]` at position `start`; the last hidden row `[1, D]`.

        With `every`, all rows `[T, D]`: what scoring a given text needs.
        """
        space, eps = self.space, self.config.eps
        shape = (len(tokens), self.config.hidden)
        x = torch.index_select(self.embedding, 0, tokens, out=space.take("residual", *shape))
        inner = space.take("inner", *shape)
        for index, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            before, after = self.norms[index]
            rms_norm(x, before, eps, inner)
            if index == len(self.feed) - 1 and not every:
                x = x[-1:]  # nobody reads what the last layer makes of the other rows
            if isinstance(attention, Mla):
                attention(inner, x, state[index, TensorKind.LATENT_KV], start, space)
            else:
                kinds = TensorKind.RECURRENT, TensorKind.CONV
                recurrent, conv = (state[index, kind] for kind in kinds)
                attention(inner, x, (recurrent, conv), space)
            inner = inner[: len(x)]
            rms_norm(x, after, eps, inner)
            feed(inner, x, space)
        return rms_norm(x, self.norm, eps, torch.empty(x.shape))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[T, vocab]` of hidden rows."""
        return hidden @ self.head.T


def _feed(weights: Weights, prefix: str, config: ModelConfig, index: int) -> Feed:
    if index not in config.sparse_layers:
        return Mlp(weights, f"{prefix}.mlp", config.hidden, config.dense_size)
    return Experts(weights, f"{prefix}.mlp", config)
