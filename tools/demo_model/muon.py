"""Muon for the matrices inside the layers (Jordan et al. 2024, kellerjordan.github.io/posts/muon): matrices of one shape together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal; the update's rms is 0.2 times `lr`, as AdamW's would be (arXiv:2502.16982)."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                same_shape[p.shape].append(p)
            for shape, params in same_shape.items():
                update = orthogonal(torch.stack([self.momentum(p, group["momentum"]) for p in params]))
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, u in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=scale)

    def momentum(self, p: Tensor, beta: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - beta)
        return p.grad.lerp(state["momentum"], beta)  # Nesterov


def orthogonal(g: Tensor) -> Tensor:
    """The nearest matrix with singular values about 1, by five Newton-Schulz steps."""
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()
