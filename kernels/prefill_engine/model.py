"""A whole Kimi Linear as plain tensors: load once, run any number of sequences."""

from __future__ import annotations

from pathlib import Path

import torch
from prefill_wire.tensors import TensorKind
from torch import Tensor

from prefill_engine.checkpoint_folder import read_config
from prefill_engine.config import ModelConfig, parse_config
from prefill_engine.layers import Experts, Feed, Kda, Mla, Mlp, rms_norm
from prefill_engine.weights import Weights

StateTensors = dict[tuple[int, TensorKind], Tensor]


class KimiLinear:
    """Weights in fp32 and the forward pass of one sequence."""

    def __init__(self, folder: Path) -> None:
        """Read a checkpoint folder; raises `CheckpointError` or `UnsupportedConfig`."""
        self.config = config = parse_config(read_config(folder))
        weights, table = Weights(folder), (config.vocab_size, config.hidden)
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
    def forward(self, tokens: Tensor, state: StateTensors, start: int) -> Tensor:
        """Advance `state` over `tokens` `[T]` at position `start`; the last hidden row `[D]`."""
        x = self.embedding[tokens]
        eps = self.config.eps
        for index, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            before, after = self.norms[index]
            inner = rms_norm(x, before, eps)
            if isinstance(attention, Mla):
                mixed = attention(inner, state[index, TensorKind.LATENT_KV], start)
            else:
                conv, recurrent = state[index, TensorKind.CONV], state[index, TensorKind.RECURRENT]
                mixed = attention(inner, recurrent, conv)
            x = x + mixed
            x = x + feed(rms_norm(x, after, eps))
        return rms_norm(x[-1], self.norm, eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[vocab]` of a last hidden row."""
        return self.head @ hidden


def _feed(weights: Weights, prefix: str, config: ModelConfig, index: int) -> Feed:
    if index not in config.sparse_layers:
        return Mlp(weights, f"{prefix}.mlp", config.hidden, config.dense_size)
    return Experts(weights, f"{prefix}.mlp", config)
