"""transformers' own Kimi Linear, with the slow inner loops replaced for training on a CPU.

The parameters, their names and the forward pass are those of `KimiLinearForCausalLM`; four
functions are exchanged for equal ones that autograd runs fast: the KDA recurrence, the short
convolution, the experts (all of them as one product, the unchosen weighted zero) and attention
(values padded to the width of the keys: fused attention on CPU wants one width).
"""

from __future__ import annotations

from typing import Any

import torch
from prefill_kernels.kda import chunk_kda
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, KimiLinearConfig, KimiLinearForCausalLM
from transformers.models.kimi_linear import modeling_kimi_linear as modeling

ATTENTION = "prefill_training"
PIECES = (
    "KimiLinearRMSNorm",
    "KimiLinearRMSNormGated",
    "KimiLinearForgetGate",
    "KimiLinearMLP",
    "KimiLinearExperts",
)


def build_model(config: dict[str, Any], seed: int) -> Any:
    """A fresh fp32 `KimiLinearForCausalLM`, its weights drawn from `seed`."""
    install()
    torch.manual_seed(seed)
    model: Any = KimiLinearForCausalLM(KimiLinearConfig.from_dict(config))
    model.float()
    model.config._attn_implementation = ATTENTION
    return model


def install() -> None:
    """Exchange the four functions in transformers' module; the process trains from then on."""
    AttentionInterface.register(ATTENTION, causal_attention)
    module: Any = modeling
    module.chunk_kimi_delta_attention = kda
    module.causal_conv1d_fn = short_conv
    module.KimiLinearExperts.forward = all_experts
    module.create_causal_mask = lambda **_: None
    module.create_recurrent_attention_mask = lambda **_: None


def compile_pieces() -> None:
    """Let torch.compile fuse many small products: 1.3 times the speed, a minute to start."""
    module: Any = modeling
    for piece in PIECES:
        layer = getattr(module, piece)
        layer.forward = torch.compile(layer.forward, dynamic=False)
    module.causal_conv1d_fn = torch.compile(short_conv, dynamic=False)


def kda(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """transformers' chunk function `[B, T, H, D]` on `chunk_kda`: q and k are normed here."""
    scale = query.shape[-1] ** -0.5
    return chunk_kda(
        unit(query) * scale,
        unit(key),
        value,
        kwargs["g"],
        kwargs["beta"],
        initial_state=kwargs.get("initial_state"),
    )


def unit(x: Tensor) -> Tensor:
    """`x / sqrt(sum x^2 + 1e-6)` over the last axis, as the Kimi Linear kernels norm q and k."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def short_conv(hidden_states: Tensor, weight: Tensor, **kwargs: Any) -> Tensor:
    """Causal depthwise convolution `[B, D, T]` with weight `[D, width]`, then silu."""
    width, length = weight.shape[-1], hidden_states.shape[-1]
    x = functional.pad(hidden_states.transpose(1, 2), (0, 0, width - 1, 0))  # [B, T + width - 1, D]
    out = x[:, :length] * weight[:, 0]
    for tap in range(1, width):
        out = torch.addcmul(out, x[:, tap : tap + length], weight[:, tap])
    return functional.silu(out).transpose(1, 2)


def all_experts(experts: Any, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Every expert on every token `[N, D]`, weighted by the router (zero where not chosen)."""
    count, width = experts.num_experts, experts.intermediate_dim
    routed = x.new_zeros(x.shape[0], count).scatter(1, index, weights)
    gate, up = (x @ experts.gate_up_proj.flatten(0, 1).T).view(-1, count, 2, width).unbind(2)
    hidden = functional.silu(gate) * up * routed.unsqueeze(-1)
    down: Tensor = experts.down_proj.transpose(1, 2).flatten(0, 1)
    out: Tensor = hidden.flatten(1) @ down
    return out


def causal_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: Any
) -> tuple[Tensor, None]:
    """Causal attention over a whole sequence, `[B, heads, T, D]` to `[B, T, heads, V]`."""
    width = value.shape[-1]
    padded = functional.pad(value, (0, query.shape[-1] - width))
    out = functional.scaled_dot_product_attention(
        query, key, padded, is_causal=True, scale=kwargs["scaling"]
    )
    return out[..., :width].transpose(1, 2), None


class LoadBalancer:
    """Keeps experts evenly used by moving the router's selection bias (DeepSeek-V3, 2.1.2)."""

    def __init__(self, model: nn.Module, rate: float = 1e-3) -> None:
        self.rate = rate
        self._counts: dict[Any, Tensor] = {}
        for module in model.modules():
            if isinstance(module, modeling.KimiLinearTopkRouter):
                self._counts[module] = torch.zeros(module.num_experts)
                module.register_forward_hook(self._count)

    def _count(self, module: Any, _: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
        if module.training:
            used = output[2].flatten()
            self._counts[module] += torch.bincount(used, minlength=module.num_experts)

    def step(self) -> float:
        """Move every bias by one step; returns the largest share of an expert over the even one."""
        worst = 0.0
        for module, counts in self._counts.items():
            even = counts.mean()
            module.e_score_correction_bias.add_(self.rate * torch.sign(even - counts))
            worst = max(worst, float(counts.max() / even))
            counts.zero_()
        return worst
