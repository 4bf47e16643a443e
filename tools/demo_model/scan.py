"""The Mamba-2 layer of Hugging Face's Granite hybrid, its scan as batched matrix products: what a CPU trains quickly.

The same parameters and the same numbers as the layer that it replaces (Dao & Gu 2024, arXiv:2405.21060, section 6),
without a cache and without padding. B rows, c chunks of l tokens, H heads of P, N the state size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every PyTorch reader knows
from torch import Tensor
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer


class BatchedMamba(GraniteMoeHybridMambaLayer):
    """`forward` alone differs; assign it as the class of an existing layer."""

    def forward(
        self, hidden_states: Tensor, cache: None = None, attention_mask: None = None, **_: object
    ) -> Tensor:
        rows, length, _ = hidden_states.shape
        gate, xbc, dt = self.in_proj(hidden_states).split(
            [self.intermediate_size, self.conv_dim, self.num_heads], dim=-1
        )
        xbc = F.silu(causal_conv(xbc, self.conv1d.weight[:, 0], self.conv1d.bias))
        x, b, c = xbc.split([self.intermediate_size, self.ssm_state_size, self.ssm_state_size], dim=-1)
        x = x.reshape(rows, length, self.num_heads, self.head_dim)
        dt = F.softplus(dt + self.dt_bias)
        y = ssd(x, dt, -torch.exp(self.A_log), b, c, self.chunk_size) + x * self.D[:, None]
        return self.out_proj(self.norm(y.reshape(rows, length, -1), gate))


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: [B, T, C], weight: [C, K]; shifted products are faster here than a grouped convolution."""
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    return bias + sum(padded[:, k : k + length] * weight[:, k] for k in range(taps))


def ssd(x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, size: int) -> Tensor:
    """x: [B, T, H, P], dt: [B, T, H], A: [H], b and c: [B, T, N], T a multiple of `size` -> [B, T, H, P]."""
    rows, length, heads, width = x.shape
    chunks, state = length // size, b.shape[-1]
    xdt = (x * dt[..., None]).view(rows, chunks, size, heads, width)
    b, c = b.reshape(rows, chunks, size, state), c.reshape(rows, chunks, size, state)
    cum = (dt * A).view(rows, chunks, size, heads).cumsum(2).permute(0, 1, 3, 2)  # [B, c, H, l]

    causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    decay = torch.exp((cum[..., :, None] - cum[..., None, :]).masked_fill(~causal, -torch.inf))
    scores = (c @ b.transpose(-1, -2))[:, :, None] * decay  # [B, c, H, l, l]
    within = (scores @ xdt.transpose(2, 3)).transpose(2, 3)

    to_end = torch.exp(cum[..., -1:] - cum).transpose(2, 3)[..., None]  # [B, c, l, H, 1]
    added = b.transpose(-1, -2) @ (xdt * to_end).reshape(rows, chunks, size, heads * width)
    total = cum[..., -1].permute(0, 2, 1).cumsum(-1)  # [B, H, c]
    before = F.pad(total, (1, 0))[..., :-1]  # the log decay up to the start of each chunk
    earlier = torch.ones(chunks, chunks, dtype=torch.bool, device=x.device).tril(-1)
    carried = torch.exp((before[..., :, None] - total[..., None, :]).masked_fill(~earlier, -torch.inf))
    added = added.view(rows, chunks, state, heads, width).permute(0, 3, 1, 2, 4)  # [B, H, c, N, P]
    start = (carried @ added.reshape(rows, heads, chunks, state * width)).view(
        rows, heads, chunks, state, width
    )
    start = start.permute(0, 2, 3, 1, 4).reshape(rows, chunks, state, heads * width)
    across = (c @ start).view(rows, chunks, size, heads, width) * torch.exp(cum).transpose(2, 3)[..., None]
    return (within + across).reshape(rows, length, heads, width)
