"""What a model costs in memory, from its header alone; and the window that fits into what is free.

    total = baseline + weights + cache(n_ctx) + carry + scratch          all in bytes

Attention layers alone pay per token; a recurrent layer keeps a carry of fixed size. The rules for which layer is
which are llama.cpp's, per architecture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..errors import DoesNotFit
from ..gguf import Header

CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}  # per element
BASELINE = 110 << 20  # an engine process before it loads a model: interpreter, NumPy, ggml
BATCH = 512  # tokens of one prefill step; scratch grows with it
CONTEXT_STEP = 256  # llama.cpp pads a window to a multiple of this
LEAST_CONTEXT, LONGEST_CONTEXT = 512, 1 << 21
# Attention scores of one prefill step, bytes. Up to here they are kept whole, in float32: exact, and decoding a long
# context measured up to 2.2 times faster than ggml's flash attention, which sums V in f16. Beyond, memory decides.
MOST_SCORES = 512 << 20

EVERY_LAYER_BOTH = {"falcon-h1"}
ALL_RECURRENT = {"mamba", "mamba2"}
INTERVAL = {"qwen3next", "qwen35", "qwen35moe"}
SUBLAYERS = {"nemotron_h", "nemotron_h_moe"}
PER_LAYER_HEADS = {"granitehybrid", "jamba", "lfm2", "lfm2moe", "kimi-linear"}


@dataclass(frozen=True)
class Geometry:
    """The figures that decide memory. `cache_elements` per token over all attention layers, `carry_bytes` a sequence."""

    architecture: str
    layer_kinds: tuple[str, ...]  # "attention", "recurrent", "both" or "feed-forward"
    cache_elements: int
    carry_bytes: int
    weight_bytes: int
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_head: int = 0  # 0 where only the catalog is known

    @property
    def kv_bytes_per_token(self) -> int:
        """With an f16 cache."""
        return self.cache_elements * 2


@dataclass(frozen=True)
class Plan:
    """Bytes by purpose for one window."""

    n_ctx: int
    n_sequences: int
    weights: int
    cache: int
    carry: int
    scratch: int
    flash: bool  # llama.cpp's flash attention
    baseline: int = BASELINE

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.carry + self.scratch + self.baseline


def geometry(header: Header) -> Geometry:
    """Read the shape from a header. Keys may be scalars or one value per layer."""
    arch = header.architecture
    n_layer = int(header.get(".block_count", 0)) - int(header.get(".nextn_predict_layers", 0))
    heads = per_layer(header.get(".attention.head_count", 0), n_layer)
    kv_heads = per_layer(header.get(".attention.head_count_kv", heads), n_layer)
    feed_forward = per_layer(header.get(".feed_forward_length", 0), n_layer)
    n_embd = int(header.get(".embedding_length", 0))
    kinds = layer_kinds(arch, n_layer, kv_heads, feed_forward, header)
    head_size = n_embd // max(1, max(heads, default=1))
    width = int(header.get(".attention.key_length", head_size)) + int(
        header.get(".attention.value_length", head_size)
    )
    if arch == "kimi-linear":  # multi-head latent attention keeps one compressed row, of which V is a view
        width, kv_heads = latent_width(header), [min(kv, 1) for kv in kv_heads]
    elements = sum(
        kv * width for kv, kind in zip(kv_heads, kinds, strict=True) if kind in ("attention", "both")
    )
    n_recurrent = sum(kind in ("recurrent", "both") for kind in kinds)
    embedding = header.tensors.get("token_embd.weight")
    return Geometry(
        architecture=arch,
        layer_kinds=kinds,
        cache_elements=elements,
        carry_bytes=4 * n_recurrent * carry_elements(header),
        weight_bytes=sum(t.nbytes for t in header.tensors.values()),
        n_ctx_train=int(header.get(".context_length", 0)),
        n_embd=n_embd,
        n_ff=max(feed_forward, default=0),
        n_vocab=embedding.shape[0] if embedding else int(header.get(".vocab_size", 0)),
        n_head=max(heads, default=0),
    )


def latent_width(header: Header) -> int:
    """Values of the row that multi-head latent attention keeps; older files give a whole head's length as key_length."""
    length, latent = (int(header.get(k, 0)) for k in (".attention.key_length", ".attention.kv_lora_rank"))
    return length if length > latent else latent + int(header.get(".rope.dimension_count", 0))


def per_layer(value: int | Sequence[int], n_layer: int) -> list[int]:
    """One value per layer, from a scalar or an array (which may be longer: prediction layers at the end)."""
    return [int(v) for v in value[:n_layer]] if isinstance(value, Sequence) else [int(value)] * n_layer


def layer_kinds(
    arch: str, n_layer: int, kv_heads: Sequence[int], feed_forward: Sequence[int], header: Header
) -> tuple[str, ...]:
    """What each layer is, by llama.cpp's rule for the architecture."""
    if arch in EVERY_LAYER_BOTH:
        return ("both",) * n_layer
    if arch in ALL_RECURRENT:
        return ("recurrent",) * n_layer
    if arch in INTERVAL:
        listed = header.get(".attention.recurrent_layers")
        every = int(header.get(".full_attention_interval", 4))
        recurrent = list(listed)[:n_layer] if listed else [(i + 1) % every != 0 for i in range(n_layer)]
        return tuple("recurrent" if r else "attention" for r in recurrent)
    if arch in SUBLAYERS:
        return tuple(
            "feed-forward" if ff else "attention" if kv else "recurrent"
            for kv, ff in zip(kv_heads, feed_forward, strict=True)
        )
    if arch in PER_LAYER_HEADS:
        return tuple("attention" if kv else "recurrent" for kv in kv_heads)
    return ("attention",) * n_layer


def carry_elements(header: Header) -> int:
    """float32 values that one recurrent layer keeps: the convolution's window and the state."""
    if header.get(".shortconv.l_cache"):
        return int(header.get(".embedding_length")) * (int(header.get(".shortconv.l_cache")) - 1)
    taps = int(header.get(".ssm.conv_kernel", 0))
    if header.get(".kda.head_dim"):
        head = int(header.get(".kda.head_dim"))
        heads = max(per_layer(header.get(".attention.head_count", 0), 1))
        return 3 * (taps - 1) * heads * head + head * head * heads
    inner, state = int(header.get(".ssm.inner_size", 0)), int(header.get(".ssm.state_size", 0))
    groups = int(header.get(".ssm.group_count", 0))
    return max(0, taps - 1) * (inner + 2 * groups * state) + state * inner


def plan(
    shape: Geometry,
    n_ctx: int,
    cache_type: str = "f16",
    n_sequences: int = 1,
    runtime: str | None = "llama.cpp",
    attention_kernel: bool = False,
) -> Plan:
    """What a window of `n_ctx` tokens for each of `n_sequences` costs. `attention_kernel`: one is registered."""
    padded = -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP
    flash, scratch = True, 0
    if runtime == "hybrid":
        scratch = _hybrid_scratch(shape, padded, cache_type, attention_kernel)
    else:
        flash, scratch = _llama_scratch(shape, padded * n_sequences, cache_type)
    return Plan(
        n_ctx=n_ctx,
        n_sequences=n_sequences,
        weights=shape.weight_bytes,
        cache=int(shape.cache_elements * CACHE_BYTES[cache_type] * padded * n_sequences),
        carry=shape.carry_bytes * n_sequences,
        scratch=scratch,
        flash=flash,
    )


def _llama_scratch(shape: Geometry, n_rows: int, cache_type: str) -> tuple[bool, int]:
    """Whether llama.cpp's flash attention is on, and bytes, for a cache of `n_rows` tokens over all sequences."""
    scores = 4 * BATCH * shape.n_head * n_rows if shape.cache_elements else 0
    # llama.cpp reads a quantised cache only with flash attention, and would cast an f32 cache to f16 for it.
    flash = cache_type == "q8_0" or (cache_type == "f16" and scores > MOST_SCORES)
    # The widest activations of one prefill step. Logits are made for the last row alone; who asks for every row pays
    # for the answer besides.
    return flash, 4 * BATCH * (4 * shape.n_ff + 8 * shape.n_embd) + (0 if flash else scores)


def _hybrid_scratch(shape: Geometry, n_rows: int, cache_type: str, attention_kernel: bool) -> int:
    """The widest activations of one prefill step. ggml's attention wants a mask besides, one f16 a token and row of a
    sequence, and for one token an f16 layer's values in float32."""
    activations = 4 * BATCH * (2 * shape.n_ff + 4 * shape.n_embd)
    if attention_kernel or not shape.cache_elements:
        return activations
    layers = sum(kind in ("attention", "both") for kind in shape.layer_kinds)
    values = 4 * n_rows * shape.cache_elements // layers // 2 if cache_type == "f16" else 0
    return max(activations + 2 * BATCH * n_rows, values)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken without swapping: what the system has available, within the control group's limit."""
    available = int(psutil.virtual_memory().available)
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (cgroup / limit_file).read_text().strip()
            used = int((cgroup / used_file).read_text())
        except (OSError, ValueError):
            continue
        if limit != "max":
            available = min(available, max(0, int(limit) - used))
    return available


def fit(
    model: str,
    shape: Geometry,
    *,
    n_ctx: int | None = None,
    cache_type: str = "f16",
    n_sequences: int = 1,
    free: int | None = None,
    default_limit: int | None = None,
    runtime: str | None = "llama.cpp",
    attention_kernel: bool = False,
) -> Plan:
    """The plan for `n_ctx`, or for the largest window that is useful and fits.

    Without `n_ctx` the window is the model's native length, at most `default_limit`, made smaller until it fits into
    `free` bytes. Raises DoesNotFit, before anything is allocated, when even that is impossible.
    """
    free = free_memory() if free is None else free
    native = shape.n_ctx_train or LEAST_CONTEXT
    wanted = n_ctx if n_ctx is not None else min(native, default_limit or native)
    planned = functools.partial(
        plan,
        shape,
        cache_type=cache_type,
        n_sequences=n_sequences,
        runtime=runtime,
        attention_kernel=attention_kernel,
    )
    wish = planned(wanted)
    if wish.total <= free:
        return wish
    # Not a bisection: where flash attention takes over, a longer window can cost less.
    steps = range(CONTEXT_STEP, min(wanted, LONGEST_CONTEXT), CONTEXT_STEP)
    largest = next((n for n in reversed(steps) if planned(n).total <= free), 0)
    if n_ctx is None and largest >= LEAST_CONTEXT:
        return planned(largest)
    raise DoesNotFit(
        model=model,
        needed=wish.total,
        free=free,
        weights=wish.weights,
        cache=wish.cache + wish.carry,
        n_ctx=wanted,
        largest_ctx=largest if largest >= LEAST_CONTEXT else 0,
    )
