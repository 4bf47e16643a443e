"""More reference cases: mixtures of experts, rotary and grouped-norm variants, and cases small enough to be kept.

The `_small` cases are what `tests/golden/` holds. In them no two sizes are equal that could be confused, so that a
swapped axis shows; they are evaluated on fewer tokens, and not quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Spec = dict[str, Any]
SMALL: Spec = dict(n_tokens=132, quantise=False)
VOCAB = 320  # of the small cases; the byte alphabet alone takes 256
ALTERNATING = ["linear_attention", "full_attention", "linear_attention"]


def cases(base: ModuleType) -> dict[str, Callable[[], Spec]]:
    """The cases by name; `base` is make_reference, whose configurations they vary."""
    return {name: (lambda build=build: build(base)) for name, build in VARIANTS.items()}


# --- Granite ---------------------------------------------------------------------------------------------------


def granite(base: ModuleType, *, rope: bool = False, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import GraniteMoeHybridForCausalLM as M

    if rope:  # the converter writes this architecture's rotary switch for Bamba alone
        kw.update(position_embedding_type="rope", rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
        extra = {**(extra or {}), "patch": turn_rotary_on}
    return dict(cls=M, cfg=base.granite_cfg(**kw), json=base.granite_json, add_bos=False, **(extra or {}))


def turn_rotary_on(path: Path) -> None:
    import gguf

    field = gguf.GGUFReader(str(path), "r+").fields["granitehybrid.rope.scaling.finetuned"]
    field.parts[field.data[0]][0] = True


MOE = dict(intermediate_size=64, shared_intermediate_size=128, num_local_experts=8, num_experts_per_tok=3)
GRANITE_SMALL = dict(
    vocab_size=VOCAB, hidden_size=64, num_attention_heads=4, num_key_value_heads=1, num_hidden_layers=3,
    layer_types=ALTERNATING, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=24, mamba_n_groups=2, mamba_chunk_size=32,
)


def granite_small(base: ModuleType) -> Spec:
    return granite(base, extra=SMALL, **GRANITE_SMALL, intermediate_size=112, shared_intermediate_size=112)


def granite_moe_small(base: ModuleType) -> Spec:
    return granite(
        base, rope=True, extra=SMALL, **GRANITE_SMALL, intermediate_size=28, shared_intermediate_size=44,
        num_local_experts=6, num_experts_per_tok=3, tie_word_embeddings=False,
    )


# --- Mamba -----------------------------------------------------------------------------------------------------


def mamba(base: ModuleType, *, falcon: bool = False, extra: Spec | None = None, **kw: Any) -> Spec:
    import transformers as t

    d = dict(
        **base.COMMON, hidden_size=256, num_hidden_layers=4, state_size=16, expand=2, conv_kernel=4,
        time_step_rank=16, layer_norm_epsilon=1e-5, tie_word_embeddings=True, residual_in_fp32=True,
    )
    d.update(kw)
    if falcon:  # GGUF keeps one epsilon for all norms
        return dict(
            cls=t.FalconMambaForCausalLM, cfg=t.FalconMambaConfig(mixer_rms_eps=1e-5, **d),
            json=lambda c: {**c, "model_type": "falcon_mamba"}, **(extra or {}),
        )
    return dict(cls=t.MambaForCausalLM, cfg=t.MambaConfig(**d), **(extra or {}))


MAMBA_SMALL = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, state_size=12, time_step_rank=7)


def mamba2_small(base: ModuleType) -> Spec:
    from transformers import Mamba2Config, Mamba2ForCausalLM as M

    cfg = Mamba2Config(
        **{**base.COMMON, "vocab_size": VOCAB}, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=24, n_groups=2,
        expand=2, conv_kernel=4, chunk_size=32, layer_norm_epsilon=1e-5, tie_word_embeddings=False,
    )
    return dict(cls=M, cfg=cfg, **SMALL)


# --- Falcon-H1 -------------------------------------------------------------------------------------------------


def falcon_h1(base: ModuleType, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import FalconH1Config, FalconH1ForCausalLM as M

    return dict(cls=M, cfg=FalconH1Config(**base.falcon_kw(**kw)), **(extra or {}))


# --- Jamba -----------------------------------------------------------------------------------------------------


def jamba(base: ModuleType, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import JambaForCausalLM as M

    return dict(cls=M, cfg=base.jamba_cfg(**kw), json=base.jamba_json, tokenizer="spm", **(extra or {}))


JAMBA_SMALL = dict(
    vocab_size=400, hidden_size=64, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1,
    attn_layer_period=3, attn_layer_offset=1, mamba_d_state=12, mamba_dt_rank=7,
)


# --- Qwen ------------------------------------------------------------------------------------------------------


def qwen35(base: ModuleType, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM as M

    return qwen(M, Qwen3_5TextConfig(**base.qwen35_kw(**kw)), extra)


def qwen35_moe(base: ModuleType, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import Qwen3_5MoeTextConfig
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeForCausalLM as M

    d = base.qwen35_kw(**base.QWEN_MOE, linear_num_key_heads=2, linear_num_value_heads=6, tie_word_embeddings=False)
    d.update(kw)
    for name in ("intermediate_size", "norm_topk_prob"):
        d.pop(name)
    return qwen(M, Qwen3_5MoeTextConfig(**d), {"extra_opts": dict(router_gain=4.0), **(extra or {})})


def qwen3_next(base: ModuleType, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM as M

    d = base.qwen35_kw(**base.QWEN_MOE, tie_word_embeddings=False)
    d.update(kw)
    return qwen(M, Qwen3NextConfig(**d), {"extra_opts": dict(router_gain=4.0), **(extra or {})})


def qwen(cls: type, cfg: Any, extra: Spec | None) -> Spec:
    extra = dict(extra or {})
    opts = dict(zero_centred_norm=True, **extra.pop("extra_opts", {}))
    return dict(cls=cls, cfg=cfg, flags=["--no-mtp"], opts=opts, **extra)


QWEN_SMALL = dict(
    vocab_size=VOCAB, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=24, num_hidden_layers=3,
    layer_types=ALTERNATING, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=16,
    linear_value_head_dim=16,
)
QWEN35_ROPE = dict(rope_parameters={
    "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 2, 2],
    "mrope_interleaved": True,
})
NEXT_ROPE = dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})
EXPERTS_SMALL = dict(
    moe_intermediate_size=28, shared_expert_intermediate_size=36, num_experts_per_tok=3, num_experts=6
)


# --- Nemotron-H ------------------------------------------------------------------------------------------------


def nemotron(base: ModuleType, pattern: str, *, extra: Spec | None = None, **kw: Any) -> Spec:
    from transformers import NemotronHForCausalLM as M

    moe = "E" in pattern
    spec = dict(cls=M, cfg=base.nemotron_cfg(pattern, **kw), json=base.nemotron_json(pattern, moe), **(extra or {}))
    return {**spec, "opts": dict(router_gain=1.5)} if moe else spec


NEMOTRON_MOE = dict(
    n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=64, moe_shared_expert_intermediate_size=128,
    routed_scaling_factor=2.5,
)
NEMOTRON_SMALL = dict(
    vocab_size=VOCAB, hidden_size=64, num_attention_heads=5, num_key_value_heads=1, head_dim=24, ssm_state_size=28,
    mamba_num_heads=8,
    mamba_head_dim=16, n_groups=2, chunk_size=32, intermediate_size=104,
)
NEMOTRON_MOE_SMALL = dict(
    n_routed_experts=6, num_experts_per_tok=3, moe_intermediate_size=36, moe_shared_expert_intermediate_size=44,
    routed_scaling_factor=2.5,
)


# --- Kimi Linear -----------------------------------------------------------------------------------------------


def kimi(
    base: ModuleType, kinds: list[str], *, n_dense: int, n_head: int, d_head: int, d_conv: int, n_expert: int, n_used: int,
    n_shared: int, scale: float, extra: Spec | None = None, **sizes: Any,
) -> Spec:
    from transformers import KimiLinearConfig

    spec, n = base.kimi_linear(), len(kinds)
    cfg = KimiLinearConfig(
        **{**base.COMMON, "vocab_size": VOCAB}, hidden_size=64, intermediate_size=104, moe_intermediate_size=28,
        num_hidden_layers=n, num_attention_heads=n_head, num_key_value_heads=n_head, n_shared_experts=n_shared,
        routed_scaling_factor=scale, q_lora_rank=None, n_group=1, topk_group=1,
        num_experts_per_tok=n_used, norm_topk_prob=True, max_position_embeddings=4096, rms_norm_eps=1e-5,
        tie_word_embeddings=False, num_local_experts=n_expert, layer_types=kinds,
        mlp_layer_types=["dense"] * n_dense + ["sparse"] * (n - n_dense), linear_head_dim=d_head, linear_num_heads=n_head,
        linear_conv_kernel_dim=d_conv, **sizes,
    )

    def fix(c: Spec) -> Spec:
        c = spec["json"](c)
        numbered: dict[str, list[int]] = {
            kind: [i for i, k in enumerate(kinds, 1) if k == kind] for kind in ("full_attention", "linear_attention")
        }
        c["linear_attn_config"].update(
            full_attn_layers=numbered["full_attention"], kda_layers=numbered["linear_attention"], head_dim=d_head,
            num_heads=n_head, short_conv_kernel_size=d_conv,
        )
        c.update(
            num_experts=n_expert, num_experts_per_token=n_used, num_shared_experts=n_shared, first_k_dense_replace=n_dense
        )
        return c

    rename = spec["rename"] if n_dense else None
    return {**spec, "cfg": cfg, "json": fix, "rename": rename, **(extra or {})}


def kimi_small(base: ModuleType) -> Spec:
    return kimi(
        base, ALTERNATING, n_dense=1, n_head=3, d_head=16, d_conv=4, n_expert=6, n_used=3, n_shared=2, scale=2.446,
        kv_lora_rank=40, qk_rope_head_dim=8, v_head_dim=20, qk_nope_head_dim=24, extra=SMALL,
    )


VARIANTS: dict[str, Callable[[ModuleType], Spec]] = {
    "granite_hybrid_moe": lambda b: granite(b, **MOE),
    "granite_hybrid_rope": lambda b: granite(b, rope=True, mamba_n_groups=2, tie_word_embeddings=False),
    "falcon_mamba": lambda b: mamba(b, falcon=True),
    "falcon_h1_norm": lambda b: falcon_h1(b, mamba_rms_norm=True, mamba_n_groups=2, num_key_value_heads=1),
    "jamba_moe": lambda b: jamba(b, num_experts=4, num_experts_per_tok=2, tie_word_embeddings=False),
    "qwen3_5_tiled": lambda b: qwen35(b, linear_num_key_heads=2, linear_num_value_heads=6, tie_word_embeddings=False),
    "qwen3_5_moe": qwen35_moe,
    "nemotron_h_moe": lambda b: nemotron(b, "MEM*EME", **NEMOTRON_MOE),
    "nemotron_h_latent": lambda b: nemotron(b, "MEM*EME", **NEMOTRON_MOE, moe_latent_size=128),
    "granite_small": granite_small,
    "granite_moe_small": granite_moe_small,
    "mamba_small": lambda b: mamba(b, extra=SMALL, **MAMBA_SMALL),
    "falcon_mamba_small": lambda b: mamba(b, falcon=True, extra=SMALL, **MAMBA_SMALL),
    "mamba2_small": mamba2_small,
    "falcon_h1_small": lambda b: falcon_h1(
        b, extra=SMALL, vocab_size=VOCAB, hidden_size=64, intermediate_size=104, num_hidden_layers=2,
        num_attention_heads=4, head_dim=24, mamba_d_ssm=96, mamba_n_heads=8, mamba_d_head=12, mamba_n_groups=2, mamba_d_state=28, mamba_chunk_size=32,
        mamba_rms_norm=True,
    ),
    "jamba_small": lambda b: jamba(b, extra=SMALL, **{**JAMBA_SMALL, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_next_small": lambda b: qwen3_next(
        b, extra=SMALL, **QWEN_SMALL, **EXPERTS_SMALL, **NEXT_ROPE, tie_word_embeddings=True
    ),
    "qwen3_5_small": lambda b: qwen35(b, extra=SMALL, **QWEN_SMALL, **QWEN35_ROPE, intermediate_size=104),
    "qwen3_5_moe_small": lambda b: qwen35_moe(
        b, extra=SMALL, **QWEN_SMALL, **EXPERTS_SMALL, **QWEN35_ROPE, tie_word_embeddings=True
    ),
    "nemotron_h_small": lambda b: nemotron(b, "M-*M", extra=SMALL, **NEMOTRON_SMALL),
    "nemotron_h_moe_small": lambda b: nemotron(
        b, "ME*M", extra=SMALL, **NEMOTRON_SMALL, **NEMOTRON_MOE_SMALL, moe_latent_size=52
    ),
    "kimi_linear_small": kimi_small,
}
