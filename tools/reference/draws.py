"""Cases drawn at random: a family's configuration from a seed, small, with sizes, groups, experts, norms, biases, rotary
settings and depth as they fall. `make_reference.py --cases granite~7,kimi~1` builds them.

They are held against Hugging Face alone: llama.cpp aborts on some of the shapes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import variants

Spec = dict[str, Any]
DrawFrom = random.Random


def build(base: ModuleType, name: str) -> Spec:
    """The case called FAMILY~SEED."""
    family, _, seed = name.partition("~")
    draw = DrawFrom(name)
    spec = FAMILIES[family](base, draw)
    return {**spec, "quantise": False, "llama": False, "n_tokens": draw.choice([70, 131, 150, 200])}


def heads(draw: DrawFrom) -> tuple[int, int]:
    """Query heads and the key heads that they share."""
    n = draw.choice([1, 2, 3, 4, 6, 8])
    return n, draw.choice([d for d in range(1, n + 1) if n % d == 0])


def layers(draw: DrawFrom, low: int = 1, high: int = 5) -> list[str]:
    kinds = [draw.choice(["linear_attention", "linear_attention", "full_attention"]) for _ in range(draw.randint(low, high))]
    return kinds if "linear_attention" in kinds else [*kinds, "linear_attention"]


def grouped(draw: DrawFrom, n_head: int) -> int:
    return draw.choice([d for d in (1, 2, 3, 4, 8) if n_head % d == 0])


def experts(draw: DrawFrom) -> tuple[int, int]:
    n = draw.choice([2, 3, 5, 8, 12])
    return n, draw.randint(1, min(n, 4))


def rope(draw: DrawFrom, **kw: Any) -> Spec:
    return dict(rope_type="default", rope_theta=draw.choice([1e4, 5e5, 1e7]), **kw)


def coin(draw: DrawFrom) -> bool:
    return draw.random() < 0.5


def granite(base: ModuleType, draw: DrawFrom) -> Spec:
    n_head, n_kv = heads(draw)
    hidden = n_head * draw.choice([16, 24, 32, 40, 64])
    d_head = draw.choice([d for d in (4, 8, 16, 24, 32) if 2 * hidden % d == 0])
    n_ssm = 2 * hidden // d_head
    kw: Spec = dict(
        vocab_size=variants.VOCAB, hidden_size=hidden, num_attention_heads=n_head, num_key_value_heads=n_kv,
        layer_types=layers(draw), mamba_n_heads=n_ssm, mamba_d_head=d_head, mamba_n_groups=grouped(draw, n_ssm),
        mamba_d_state=draw.choice([8, 20, 64, 128]), mamba_d_conv=draw.choice([2, 3, 4]), mamba_chunk_size=draw.choice([8, 64]),
        mamba_conv_bias=coin(draw), attention_bias=coin(draw), tie_word_embeddings=coin(draw),
        embedding_multiplier=draw.uniform(1, 12), logits_scaling=draw.uniform(1, 8), residual_multiplier=draw.uniform(0.2, 1),
        attention_multiplier=draw.uniform(0.02, 0.3), intermediate_size=draw.choice([48, 100]),
        shared_intermediate_size=draw.choice([52, 96]), rms_norm_eps=draw.choice([1e-5, 1e-6, 1e-3]),
    )
    kw["num_hidden_layers"] = len(kw["layer_types"])
    if coin(draw):
        kw["num_local_experts"], kw["num_experts_per_tok"] = experts(draw)
    return variants.granite(base, rope=coin(draw), **kw)


def falcon_h1(base: ModuleType, draw: DrawFrom) -> Spec:
    n_head, n_kv = heads(draw)
    n_ssm, d_head = draw.choice([2, 3, 6, 8]), draw.choice([4, 12, 16, 32])
    tied, biased = coin(draw), coin(draw)
    # The converter scales embedding and output apart though they are tied, and the biases with their inputs' factor.
    same: Spec = dict(embedding_multiplier=1.5, lm_head_multiplier=1.5) if tied else {}
    same |= dict(attention_in_multiplier=1.0) if biased else {}
    return variants.falcon_h1(
        base, vocab_size=variants.VOCAB, hidden_size=draw.choice([48, 64, 88]), intermediate_size=draw.choice([56, 104]),
        num_hidden_layers=draw.randint(1, 4), num_attention_heads=n_head, num_key_value_heads=n_kv, head_dim=draw.choice([16, 24, 40]),
        mamba_n_heads=n_ssm, mamba_d_head=d_head, mamba_d_ssm=n_ssm * d_head, mamba_n_groups=grouped(draw, n_ssm),
        mamba_d_state=draw.choice([8, 28, 64, 256]), mamba_d_conv=draw.choice([2, 3, 4]), mamba_chunk_size=draw.choice([8, 32]),
        mamba_rms_norm=coin(draw), mamba_conv_bias=coin(draw), mlp_bias=coin(draw), attention_bias=biased,
        tie_word_embeddings=tied, rope_parameters=rope(draw), rms_norm_eps=draw.choice([1e-5, 1e-6]),
        **{**{name: draw.uniform(0.3, 1.5) for name in (
            "key_multiplier", "attention_in_multiplier", "attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
        )}, **same},
        mlp_multipliers=[draw.uniform(0.5, 1.5) for _ in range(2)], ssm_multipliers=[draw.uniform(0.5, 1.5) for _ in range(5)],
    )


def jamba(base: ModuleType, draw: DrawFrom) -> Spec:
    n_head, n_kv = heads(draw)
    period, n_layer = draw.randint(1, 4), draw.randint(2, 5)
    n_expert, n_used = experts(draw) if coin(draw) else (1, 1)
    return variants.jamba(
        base, vocab_size=400, hidden_size=n_head * draw.choice([16, 24, 32]), intermediate_size=draw.choice([44, 96]),
        num_hidden_layers=n_layer, num_attention_heads=n_head, num_key_value_heads=n_kv, attn_layer_period=period + 1,
        attn_layer_offset=draw.randint(0, period), mamba_d_state=draw.choice([4, 12, 16, 32]), mamba_d_conv=draw.choice([2, 3, 4]),
        mamba_dt_rank=draw.choice([3, 8, 20]), mamba_expand=draw.choice([1, 2, 3]), num_experts=n_expert,
        num_experts_per_tok=n_used, expert_layer_period=draw.randint(1, 2), expert_layer_offset=0, tie_word_embeddings=coin(draw),
        rms_norm_eps=draw.choice([1e-5, 1e-6]),
    )


def mamba(base: ModuleType, draw: DrawFrom, falcon: bool = False) -> Spec:
    return variants.mamba(
        base, falcon=falcon, vocab_size=variants.VOCAB, hidden_size=draw.choice([24, 48, 80]), num_hidden_layers=draw.randint(1, 4),
        state_size=draw.choice([4, 12, 16, 32]), time_step_rank=draw.choice([2, 7, 16]), conv_kernel=draw.choice([2, 3, 4]),
        tie_word_embeddings=coin(draw), use_conv_bias=True,
    )


def mamba2(base: ModuleType, draw: DrawFrom) -> Spec:
    from transformers import Mamba2Config, Mamba2ForCausalLM as M

    hidden = draw.choice([32, 64, 96])
    d_head = draw.choice([8, 16, 32])
    n_head = 2 * hidden // d_head
    cfg = Mamba2Config(
        **{**base.COMMON, "vocab_size": variants.VOCAB}, hidden_size=hidden, num_hidden_layers=draw.randint(1, 4), num_heads=n_head,
        head_dim=d_head, state_size=draw.choice([8, 24, 64, 128]), n_groups=1, expand=2,
        conv_kernel=draw.choice([2, 3, 4]), chunk_size=draw.choice([8, 64]), layer_norm_epsilon=draw.choice([1e-5, 1e-6]),
        tie_word_embeddings=coin(draw),
    )
    return dict(cls=M, cfg=cfg)


def qwen(draw: DrawFrom, moe: bool) -> Spec:
    """What the three Qwen lines share. Their converter wants key heads and value heads of one size."""
    n_head, n_kv = heads(draw)
    d_key, n_key, share = draw.choice([8, 16, 32]), draw.choice([1, 2, 3]), draw.choice([1, 2, 3])
    d_head = draw.choice([16, 24, 32, 64])
    kw: Spec = dict(
        vocab_size=variants.VOCAB, hidden_size=draw.choice([40, 64, 96]), num_attention_heads=n_head, num_key_value_heads=n_kv,
        head_dim=d_head, layer_types=layers(draw, 2), linear_num_key_heads=n_key, linear_num_value_heads=n_key * share,
        linear_key_head_dim=d_key, linear_value_head_dim=d_key, linear_conv_kernel_dim=draw.choice([2, 3, 4]),
        tie_word_embeddings=coin(draw), attention_bias=coin(draw), rms_norm_eps=draw.choice([1e-5, 1e-6]),
    )
    kw["num_hidden_layers"] = len(kw["layer_types"])
    if moe:
        kw["num_experts"], kw["num_experts_per_tok"] = experts(draw)
        kw.update(moe_intermediate_size=draw.choice([20, 36]), shared_expert_intermediate_size=draw.choice([28, 44]))
    else:
        kw["intermediate_size"] = draw.choice([56, 104])
    return kw


def sections(draw: DrawFrom, d_head: int) -> Spec:
    n_pair = d_head // 4
    third = n_pair // 3
    return rope(
        draw, partial_rotary_factor=0.5, mrope_section=[n_pair - 2 * third, third, third], mrope_interleaved=True
    )


def qwen35(base: ModuleType, draw: DrawFrom) -> Spec:
    kw = qwen(draw, moe=False)
    return variants.qwen35(base, **kw, rope_parameters=sections(draw, kw["head_dim"]))


def qwen35_moe(base: ModuleType, draw: DrawFrom) -> Spec:
    kw = qwen(draw, moe=True)
    return variants.qwen35_moe(base, **kw, rope_parameters=sections(draw, kw["head_dim"]))


def qwen3_next(base: ModuleType, draw: DrawFrom) -> Spec:
    kw = qwen(draw, moe=True)
    return variants.qwen3_next(base, **kw, rope_parameters=rope(draw, partial_rotary_factor=draw.choice([0.25, 0.5, 1.0])))


def nemotron(base: ModuleType, draw: DrawFrom, moe: bool = False) -> Spec:
    pattern = "".join(draw.choice("MM*E" if moe else "MM*-") for _ in range(draw.randint(2, 6)))
    pattern = pattern if "M" in pattern else pattern + "M"
    pattern = pattern if not moe or "E" in pattern else pattern + "E"
    n_head, n_kv = heads(draw)
    n_ssm, d_head = draw.choice([2, 4, 6, 8]), draw.choice([8, 12, 16])
    kw: Spec = dict(
        vocab_size=variants.VOCAB, hidden_size=draw.choice([48, 64, 88]), num_attention_heads=n_head, num_key_value_heads=n_kv,
        head_dim=draw.choice([16, 24, 40]), ssm_state_size=draw.choice([8, 28, 64]), mamba_num_heads=n_ssm, mamba_head_dim=d_head,
        n_groups=grouped(draw, n_ssm), conv_kernel=draw.choice([2, 3, 4]), chunk_size=draw.choice([8, 32]),
        intermediate_size=draw.choice([60, 104]), use_conv_bias=coin(draw), attention_bias=coin(draw), mlp_bias=coin(draw),
    )
    if moe:
        kw["n_routed_experts"], kw["num_experts_per_tok"] = experts(draw)
        kw.update(
            moe_intermediate_size=draw.choice([20, 36]), moe_shared_expert_intermediate_size=draw.choice([28, 44]),
            routed_scaling_factor=draw.uniform(0.5, 3), norm_topk_prob=coin(draw), mlp_bias=False,
        )
        if coin(draw):
            kw["moe_latent_size"] = draw.choice([36, 52])
    return variants.nemotron(base, pattern, **kw)


def kimi(base: ModuleType, draw: DrawFrom) -> Spec:
    kinds = layers(draw, 1, 4)
    kinds = kinds if "full_attention" in kinds else [*kinds, "full_attention"]
    n_expert, n_used = experts(draw)
    n_head, size, n_shared = draw.choice([1, 2, 3, 4]), draw.choice([8, 16, 24]), draw.choice([1, 2])
    return variants.kimi(
        base, kinds, n_dense=draw.randint(0, 1), n_head=n_head, d_head=size, d_conv=draw.choice([2, 3, 4]), n_expert=n_expert,
        n_used=n_used, n_shared=n_shared, scale=draw.uniform(0.5, 3), kv_lora_rank=draw.choice([24, 40]),
        qk_rope_head_dim=draw.choice([4, 8]), qk_nope_head_dim=draw.choice([16, 24]), v_head_dim=draw.choice([12, 20]),
    )


FAMILIES: dict[str, Callable[[ModuleType, DrawFrom], Spec]] = {
    "granite": granite,
    "falcon_h1": falcon_h1,
    "jamba": jamba,
    "mamba": mamba,
    "falcon_mamba": lambda b, d: mamba(b, d, falcon=True),
    "mamba2": mamba2,
    "qwen35": qwen35,
    "qwen35_moe": qwen35_moe,
    "qwen3_next": qwen3_next,
    "nemotron": nemotron,
    "nemotron_moe": lambda b, d: nemotron(b, d, moe=True),
    "kimi": kimi,
}


def names(families: str, n: int) -> Iterator[str]:
    """`n` seeds of each family: `granite~0`, `granite~1`, ..."""
    for family in FAMILIES if families == "all" else families.split(","):
        yield from (f"{family}~{i}" for i in range(n))
