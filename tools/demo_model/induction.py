"""Weights to start from that can already look up what followed a piece of text when it stood there before.

Attention that finds "the token after the last time I read this" (an induction head, arXiv:2209.11895) is a matter of chance
and patience: left to itself it had not formed here after two million tokens. So the circuit is there at the start, in the
spirit of mimetic initialisation (arXiv:2305.09828, arXiv:2410.11135), and training does the rest: which text matches
which, and everything else.

The dense twin has no convolution: its first layer's heads find one and two tokens back by rotated positions, and its
second layer compares in those pairs of a head that hardly rotate.

Residual stream at position t, e the embedding, Q [d/2, d] and R1, R2 [d, d/2] with orthonormal rows and columns:

    e[t] + R1 Q e[t-1] + R2 Q e[t-2]                      written by the first layer
    score(t, s) = <A Q e[t], A Q e[s-1]> + <B Q e[t-1], B Q e[s-2]>      the second layer's attention
    V^T V e[s]                                            what it adds to position t
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

CONSTANT = 0.25  # the first coordinate of every embedding: what gates and positions can rely on
SHARP, COPIED = 2.0, 6.0  # strength of a match, of what is copied
POSITION, N_FAST = 8.0, 10  # strength of a match in position, and how many of a head's pairs it uses


def orthonormal(rows: int, columns: int) -> Tensor:
    """[rows, columns], rows or columns orthonormal, whichever are fewer; none of it reads the constant."""
    q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))
    return q if rows >= columns else q.T


def unread_constant(weight: Tensor) -> Tensor:
    weight[:, 0] = 0
    return weight


@torch.no_grad()
def start_embedding(model: PreTrainedModel) -> None:
    weight = model.get_input_embeddings().weight
    weight.normal_(0, weight.shape[1] ** -0.5)
    weight[:, 0] = CONSTANT


@torch.no_grad()
def start_hybrid(model: PreTrainedModel) -> None:
    """Mamba first, attention second, Mamba last; the last takes the current token out, which tied embeddings would repeat."""
    start_embedding(model)
    first, second, last = model.model.layers[0], model.model.layers[1], model.model.layers[-1]
    d = model.config.hidden_size
    read = unread_constant(orthonormal(d // 2, d))
    write = orthonormal(d, d)
    write_1, write_2 = write.split(d // 2, dim=1)
    shift(first.mamba, [(read, write_1, 1), (read, write_2, 2)])
    whole = unread_constant(orthonormal(d, d))
    shift(last.mamba, [(whole, -whole.T, 0)])
    look_up(second.self_attn, model.config, read, write_1, write_2, slice(None), COPIED)


@torch.no_grad()
def shift(mamba: torch.nn.Module, copies: list[tuple[Tensor, Tensor, int]]) -> None:
    """Write W R x[t-n] for each (R, W, n): a channel and its negative, since silu(x) - silu(-x) = x."""
    inner = mamba.intermediate_size
    mamba.in_proj.weight[:inner, 0] = 0.5  # an open gate
    mamba.in_proj.weight[inner : 2 * inner].copy_(torch.cat([m for r, _, _ in copies for m in (r, -r)]))
    mamba.out_proj.weight.copy_(torch.cat([m for _, w, _ in copies for m in (w, -w)], dim=1))
    taps = mamba.conv1d.weight[:, 0]
    taps.normal_(0, 0.02)
    mamba.conv1d.bias.zero_()
    start = 0
    for r, _, back in copies:
        taps[start : start + 2 * len(r), taps.shape[1] - 1 - back] = 1
        start += 2 * len(r)
    mamba.D.fill_(1)


@torch.no_grad()
def look_up(
    attention: torch.nn.Module,
    config: PretrainedConfig,
    read: Tensor,
    write_1: Tensor,
    write_2: Tensor,
    rows: slice | Tensor,
    copied: float,
) -> None:
    """Rows `rows` of each head compare the last two tokens with the two before a key; the value is the key's own."""
    width = attention.head_dim
    n_match = len(torch.arange(width)[rows])
    near = n_match * 5 // 8
    heads = config.num_attention_heads // config.num_key_value_heads
    for group in range(config.num_key_value_heads):
        match = SHARP * orthonormal(n_match, len(read))
        value = orthonormal(width, read.shape[1])
        head = slice(group * width, (group + 1) * width)
        attention.k_proj.weight[head][rows] = torch.cat([match[:near] @ write_1.T, match[near:] @ write_2.T])
        attention.v_proj.weight[head] = value
        for h in range(group * heads, (group + 1) * heads):
            head = slice(h * width, (h + 1) * width)
            attention.q_proj.weight[head][rows] = torch.cat([match[:near] @ read, match[near:] @ write_1.T])
            attention.o_proj.weight[:, head] = copied * value.T


@torch.no_grad()
def start_dense(model: PreTrainedModel) -> None:
    """Attention by position first, by content second; the last MLP has nothing to undo, since values leave a token out."""
    start_embedding(model)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    config, d = model.config, model.config.hidden_size
    read = unread_constant(orthonormal(first.head_dim, d))
    write_1, write_2, _ = orthonormal(d, d).split(
        [first.head_dim, first.head_dim, d - 2 * first.head_dim], dim=1
    )
    look_back(first, config, read, [write_1, write_2])
    slow = torch.arange(first.head_dim) % (first.head_dim // 2) >= first.head_dim // 4
    look_up(second, config, read, write_1, write_2, slow, COPIED * d**-0.5)


@torch.no_grad()
def look_back(
    attention: torch.nn.Module, config: PretrainedConfig, read: Tensor, writes: list[Tensor]
) -> None:
    """The heads of group n attend to the token n + 1 back: queries and keys are the constant, rotated that far apart."""
    width, pairs = attention.head_dim, attention.head_dim // 2
    heads = config.num_attention_heads // config.num_key_value_heads
    angle = config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / pairs)
    fast = torch.arange(pairs) < N_FAST
    size = POSITION / (CONSTANT * config.hidden_size**0.5)
    for group, write in enumerate(writes):
        head = slice(group * width, (group + 1) * width)
        turn = angle * (group + 1)
        attention.k_proj.weight[head, 0] = size * torch.cat([fast * turn.cos(), fast * turn.sin()])
        attention.v_proj.weight[head] = read
        for h in range(group * heads, (group + 1) * heads):
            head = slice(h * width, (h + 1) * width)
            attention.q_proj.weight[head, 0] = size * torch.cat([fast.float(), torch.zeros(pairs)])
            attention.o_proj.weight[:, head] = write / heads * config.hidden_size**-0.5
