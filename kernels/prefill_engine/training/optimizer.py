"""Muon for the matrices, AdamW for embeddings, norms and gates; one schedule for both."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

EMBEDDINGS = ("embed_tokens", "lm_head")


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised (Jordan et al., "Muon", 2024).

    A stack of matrices `[E, out, in]` is orthogonalised matrix by matrix. The update's RMS is made
    0.2, AdamW's usual one (Liu et al., arXiv 2502.16982), so both optimisers share a learning rate.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                moving = state["momentum"].mul_(group["momentum"]).add_(param.grad)
                update = orthogonal(param.grad.add(moving, alpha=group["momentum"]))
                param.mul_(1 - group["lr"] * group["decay"])
                scale = 0.2 * math.sqrt(max(param.shape[-2:]))
                param.add_(update, alpha=-group["lr"] * scale)


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(-1, -2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(-1, -2) if tall else x


def build_optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on the rest; `lr` is the peak of both."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        hidden = param.ndim in (2, 3) and min(param.shape[-2:]) >= 16
        inner = not any(part in name for part in EMBEDDINGS)
        (matrices if hidden and inner else rest).append(param)
    adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr, 0.95, 0.1), adam]


def learning_rate(peak: float, done: float, warmup: float = 0.02, decay: float = 0.45) -> float:
    """Warm up, stay, then fall linearly to a twentieth; `done` is the share of the budget spent."""
    if done < warmup:
        return peak * max(done, 1e-3) / warmup
    if done < 1 - decay:
        return peak
    return peak * max(0.05, (1 - done) / decay)


def update(model: nn.Module, optimizers: list[torch.optim.Optimizer], rate: float) -> float:
    """One clipped step at learning rate `rate`; returns the gradient's norm before clipping.

    A gradient that is not finite raises: it would spoil every weight.
    """
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm
