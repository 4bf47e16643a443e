"""GGUF files of true shape without weights, for every catalog row that needs kernels: sparse, a few hundred kB on disk.

What the catalog leaves out (heads, groups, experts, which layers attend) stands in `ROWS`, from the published
configurations; how each architecture spells it in a file is in the functions below, quirks included: counts given as
one number or one per layer, prediction blocks at the end, contexts of 1,048,576, tensors without `.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from conifer_gguf.store.catalog import Entry

Keys = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
LONG = 1048576  # what converters write for models that have no positions

GRANITE_ATTENTION = (5, 15, 25, 35)
ROWS: dict[str, dict[str, Any]] = {
    "granite-4.0-h-350m": {"heads": 12, "ssm_heads": 48, "d_inner": 1536, "attention": (10, 13, 17, 27)},
    "granite-4.0-h-1b": {"heads": 12, "ssm_heads": 48, "d_inner": 3072, "attention": GRANITE_ATTENTION},
    "granite-4.0-h-micro": {"heads": 32, "ssm_heads": 64, "d_inner": 4096, "attention": GRANITE_ATTENTION},
    "granite-4.0-h-tiny": {
        "heads": 12,
        "ssm_heads": 48,
        "d_inner": 3072,
        "attention": GRANITE_ATTENTION,
        "experts": 64,
        "used": 6,
        "ff": 512,
        "shared": 1024,
    },
    "granite-4.0-h-small": {
        "heads": 32,
        "ssm_heads": 128,
        "d_inner": 8192,
        "attention": GRANITE_ATTENTION,
        "experts": 72,
        "used": 10,
        "ff": 768,
        "shared": 1536,
    },
    "falcon-h1-tiny-90m-instruct": {"heads": 8, "ssm_heads": 24, "d_inner": 768, "d_state": 64, "tied": True},
    "falcon-h1-0.5b-instruct": {"heads": 8, "ssm_heads": 24, "d_inner": 1536, "d_state": 128},
    "falcon-h1-1.5b-instruct": {"heads": 8, "ssm_heads": 48, "d_inner": 3072, "d_state": 256},
    "falcon-h1-1.5b-deep-instruct": {"heads": 6, "ssm_heads": 24, "d_inner": 1536, "d_state": 256},
    "falcon-h1-3b-instruct": {"heads": 10, "ssm_heads": 32, "d_inner": 4096, "d_state": 256},
    "falcon-h1-7b-instruct": {"heads": 12, "ssm_heads": 24, "d_inner": 3072, "d_state": 256},
    "falcon-h1-34b-instruct": {
        "heads": 20,
        "ssm_heads": 32,
        "d_inner": 4096,
        "d_state": 256,
        "groups": 2,
        "norm": True,
    },
    "jamba-reasoning-3b": {"heads": 20, "attention": (7, 21), "dt_rank": 160},
    "mamba-130m": {"dt_rank": 48},
    "mamba2-130m": {"ssm_heads": 24},
    "nemotron-3-nano-4b": {
        "heads": 40,
        "ssm_heads": 96,
        "d_inner": 7680,
        "pattern": "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-",
    },
    "nemotron-nano-9b-v2": {
        "heads": 40,
        "ssm_heads": 128,
        "d_inner": 10240,
        "pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    },
    "nemotron-3-nano-30b-a3b": {
        "heads": 32,
        "ssm_heads": 64,
        "d_inner": 4096,
        "experts": 128,
        "used": 6,
        "ff": 1856,
        "shared": 3712,
        "pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    },
    "qwen3-next-80b-a3b-instruct": {
        "heads": 16,
        "value_heads": 32,
        "experts": 512,
        "used": 10,
        "ff": 512,
        "shared": 512,
    },
    "qwen3-coder-next": {
        "heads": 16,
        "value_heads": 32,
        "experts": 512,
        "used": 10,
        "ff": 512,
        "shared": 512,
        "interval": True,
    },
    "qwen3.5-0.8b": {"heads": 8, "value_heads": 16, "tied": True},
    "qwen3.5-2b": {"heads": 8, "value_heads": 16, "tied": True, "interval": True},
    "qwen3.5-4b": {"heads": 16, "value_heads": 32, "tied": True},
    "qwen3.5-9b": {"heads": 16, "value_heads": 32},
    "qwen3.5-27b": {"heads": 24, "value_heads": 48},
    "qwen3.6-27b": {"heads": 24, "value_heads": 48, "prediction": 1},
    "qwen3.5-35b-a3b": {
        "heads": 16,
        "value_heads": 32,
        "experts": 256,
        "used": 8,
        "ff": 512,
        "shared": 512,
        "prediction": 1,
    },
    "kimi-linear-48b-a3b-instruct": {"heads": 32, "experts": 256, "used": 8, "ff": 1024},
}


def header_of(entry: Entry) -> tuple[Keys, Shapes]:
    """Keys below the architecture, and tensor shapes in paper order."""
    row = ROWS[entry.name]
    keys, shapes = FAMILIES[entry.architecture](entry, row)
    n_embd, n_vocab = entry.shape.n_embd, entry.shape.n_vocab
    keys |= {"embedding_length": n_embd, "context_length": keys.get("context_length", entry.context)}
    shapes |= {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    if not row.get("tied", entry.architecture in ("granitehybrid", "mamba", "mamba2")):
        shapes["output.weight"] = (n_vocab, n_embd)
    return keys, shapes


def write(entry: Entry, path: Path) -> Path:
    """A sparse GGUF: the header is real, the weights are a hole of the right size."""
    keys, shapes = header_of(entry)
    writer = gguf.GGUFWriter(path, entry.architecture)
    for key, value in keys.items():
        add_key(writer, f"{entry.architecture}.{key}", value)
    for name, shape in shapes.items():
        quantised = len(shape) > 1 and shape[-1] % 32 == 0 and "ssm_conv1d" not in name and "norm" not in name
        kind = gguf.GGMLQuantizationType.Q4_0 if quantised else gguf.GGMLQuantizationType.F32
        n_bytes = int(np.prod(shape)) * (18 if quantised else 128) // 32
        stored = (*shape[:-1], shape[-1] // 32 * 18) if quantised else shape
        dtype = np.dtype(np.uint8 if quantised else np.float32)
        writer.add_tensor_info(name, stored, dtype, n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    data = sum(-(-info.nbytes // 32) * 32 for part in writer.tensors for info in part.values())
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + data)
    return path


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))


# --- parts -----------------------------------------------------------------------------------------------------


def attention_keys(entry: Entry, row: dict[str, Any], kv_heads: int | list[int]) -> Keys:
    return {
        "attention.head_count": row["heads"],
        "attention.head_count_kv": kv_heads,
        "attention.key_length": entry.shape.key_length,
        "attention.value_length": entry.shape.value_length,
    }


def attention_tensors(entry: Entry, row: dict[str, Any], b: str, query: int = 1) -> Shapes:
    """`query`: 2 where the query projection also makes a gate."""
    n, shape = entry.shape.n_embd, entry.shape
    q, kv = row["heads"] * shape.key_length, shape.kv_heads * shape.key_length
    return {
        f"{b}attn_q.weight": (query * q, n),
        f"{b}attn_k.weight": (kv, n),
        f"{b}attn_v.weight": (kv, n),
        f"{b}attn_output.weight": (n, q),
    }


def mamba2_keys(row: dict[str, Any], d_inner: int, d_state: int, groups: int) -> Keys:
    return {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": d_inner,
        "ssm.state_size": d_state,
        "ssm.time_step_rank": row["ssm_heads"],
        "ssm.group_count": groups,
    }


def mamba2_tensors(
    n: int, row: dict[str, Any], b: str, d_inner: int, d_state: int, groups: int, norm: bool = True
) -> Shapes:
    heads, channels = row["ssm_heads"], d_inner + 2 * groups * d_state
    shapes: Shapes = {
        f"{b}ssm_in.weight": (d_inner + channels + heads, n),
        f"{b}ssm_conv1d.weight": (channels, 4),
        f"{b}ssm_conv1d.bias": (channels,),
        f"{b}ssm_dt.bias": (heads,),
        f"{b}ssm_a": (heads, 1),
        f"{b}ssm_d": (heads, 1),
        f"{b}ssm_out.weight": (n, d_inner),
    }
    if norm:  # some writers drop the axis of length one
        shapes[f"{b}ssm_norm.weight"] = (groups, d_inner // groups) if groups > 1 else (d_inner,)
    return shapes


def mamba1_tensors(n: int, b: str, dt_rank: int, d_state: int, norms: bool) -> Shapes:
    d = 2 * n
    shapes: Shapes = {
        f"{b}ssm_in.weight": (2 * d, n),
        f"{b}ssm_conv1d.weight": (d, 4),
        f"{b}ssm_conv1d.bias": (d,),
        f"{b}ssm_x.weight": (dt_rank + 2 * d_state, d),
        f"{b}ssm_dt.weight": (d, dt_rank),
        f"{b}ssm_dt.bias": (d,),
        f"{b}ssm_a": (d, d_state),
        f"{b}ssm_d": (d,),
        f"{b}ssm_out.weight": (n, d),
    }
    if norms:
        shapes |= {
            f"{b}ssm_dt_norm.weight": (dt_rank,),
            f"{b}ssm_b_norm.weight": (d_state,),
            f"{b}ssm_c_norm.weight": (d_state,),
        }
    return shapes


def gated_ffn(n: int, n_ff: int, b: str, ending: str = "") -> Shapes:
    return {
        f"{b}ffn_gate{ending}.weight": (n_ff, n),
        f"{b}ffn_up{ending}.weight": (n_ff, n),
        f"{b}ffn_down{ending}.weight": (n, n_ff),
    }


def experts(n: int, row: dict[str, Any], b: str, gate: bool = True) -> Shapes:
    count, ff = row["experts"], row["ff"]
    shapes: Shapes = {
        f"{b}ffn_gate_inp.weight": (count, n),
        f"{b}ffn_up_exps.weight": (count, ff, n),
        f"{b}ffn_down_exps.weight": (count, n, ff),
    }
    return shapes | ({f"{b}ffn_gate_exps.weight": (count, ff, n)} if gate else {})


def blocks(n_layer: int, build: Callable[[int, str], Shapes]) -> Shapes:
    return {name: shape for i in range(n_layer) for name, shape in build(i, f"blk.{i}.").items()}


# --- families --------------------------------------------------------------------------------------------------


def granite(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n = entry.shape, entry.shape.n_embd
    kv_heads = [shape.kv_heads if i in row["attention"] else 0 for i in range(shape.layers)]
    keys = {
        "block_count": shape.layers,
        "context_length": LONG,
        "feed_forward_length": row.get("ff", shape.n_ff),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.scale": 1 / shape.key_length,
        "embedding_scale": 12.0,
        "residual_scale": 0.22,
        "logit_scale": 6.0,
        "rope.scaling.finetuned": False,
        "expert_count": row.get("experts", 0),
        "expert_used_count": row.get("used", 0),
        "expert_shared_feed_forward_length": row.get("shared", shape.n_ff),
        **attention_keys(entry, row, kv_heads),
        **mamba2_keys(row, row["d_inner"], 128, 1),
    }

    def block(i: int, b: str) -> Shapes:
        mixer = (
            attention_tensors(entry, row, b)
            if kv_heads[i]
            else mamba2_tensors(n, row, b, row["d_inner"], 128, 1)
        )
        norms = {f"{b}attn_norm.weight": (n,), f"{b}ffn_norm.weight": (n,)}
        if "experts" in row:
            return {**norms, **mixer, **experts(n, row, b), **gated_ffn(n, row["shared"], b, "_shexp")}
        return {**norms, **mixer, **gated_ffn(n, shape.n_ff, b)}

    return keys, blocks(shape.layers, block)


def falcon_h1(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n, groups = entry.shape, entry.shape.n_embd, row.get("groups", 1)
    keys = {
        "block_count": shape.layers,
        "feed_forward_length": shape.n_ff,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1e11,
        "vocab_size": shape.n_vocab,
        **attention_keys(entry, row, shape.kv_heads),
        **mamba2_keys(row, row["d_inner"], row["d_state"], groups),
    }

    def block(i: int, b: str) -> Shapes:
        return {
            f"{b}attn_norm.weight": (n,),
            f"{b}ffn_norm": (n,),  # without `.weight`
            **attention_tensors(entry, row, b),
            **mamba2_tensors(n, row, b, row["d_inner"], row["d_state"], groups, row.get("norm", False)),
            **gated_ffn(n, shape.n_ff, b),
        }

    return keys, blocks(shape.layers, block)


def jamba(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n = entry.shape, entry.shape.n_embd
    kv_heads = [shape.kv_heads if i in row["attention"] else 0 for i in range(shape.layers)]
    keys = {
        "block_count": shape.layers,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": row["heads"],  # head sizes are not written: n_embd / heads
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * n,
        "ssm.state_size": 16,
        "ssm.time_step_rank": row["dt_rank"],
        "expert_count": 1,  # dense
        "expert_used_count": 1,
    }

    def block(i: int, b: str) -> Shapes:
        mixer = (
            attention_tensors(entry, row, b)
            if kv_heads[i]
            else mamba1_tensors(n, b, row["dt_rank"], 16, True)
        )
        norms = {f"{b}attn_norm.weight": (n,), f"{b}ffn_norm.weight": (n,)}
        return {**norms, **mixer, **gated_ffn(n, shape.n_ff, b)}

    return keys, blocks(shape.layers, block)


def mamba(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n = entry.shape, entry.shape.n_embd
    keys: Keys = {
        "block_count": shape.layers,
        "context_length": LONG,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    if entry.architecture == "mamba2":
        keys |= mamba2_keys(row, 2 * n, 128, 1)
        return keys, blocks(
            shape.layers,
            lambda i, b: {f"{b}attn_norm.weight": (n,), **mamba2_tensors(n, row, b, 2 * n, 128, 1)},
        )
    keys |= {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * n,
        "ssm.state_size": 16,
        "ssm.time_step_rank": row["dt_rank"],
        "ssm.dt_b_c_rms": False,
    }
    return keys, blocks(
        shape.layers,
        lambda i, b: {f"{b}attn_norm.weight": (n,), **mamba1_tensors(n, b, row["dt_rank"], 16, False)},
    )


def nemotron(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n, pattern = entry.shape, entry.shape.n_embd, row["pattern"]
    n_ff = row.get("ff", shape.n_ff)
    keys = {
        "block_count": shape.layers,
        "context_length": LONG,
        "feed_forward_length": [n_ff if c in "-E" else 0 for c in pattern],
        "attention.layer_norm_epsilon": 1e-5,
        "rope.scaling.finetuned": False,
        "rope.dimension_count": n // row["heads"],  # written, and never used
        **attention_keys(entry, row, [shape.kv_heads if c == "*" else 0 for c in pattern]),
        **mamba2_keys(row, row["d_inner"], 128, 8),
    }
    if "experts" in row:
        keys |= {
            "expert_count": row["experts"],
            "expert_used_count": row["used"],
            "expert_feed_forward_length": n_ff,
            "expert_shared_feed_forward_length": row["shared"],
            "expert_shared_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
            "expert_group_count": 1,
        }

    def block(i: int, b: str) -> Shapes:
        norm: Shapes = {f"{b}attn_norm.weight": (n,)}
        match pattern[i]:
            case "M":
                return norm | mamba2_tensors(n, row, b, row["d_inner"], 128, 8)
            case "*":
                return norm | attention_tensors(entry, row, b)
            case "-":
                return norm | {f"{b}ffn_up.weight": (n_ff, n), f"{b}ffn_down.weight": (n, n_ff)}
            case _:
                return {
                    **norm,
                    **experts(n, row, b, gate=False),
                    f"{b}exp_probs_b.bias": (row["experts"],),
                    f"{b}ffn_up_shexp.weight": (row["shared"], n),
                    f"{b}ffn_down_shexp.weight": (n, row["shared"]),
                }

    return keys, blocks(shape.layers, block)


def qwen(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n, arch = entry.shape, entry.shape.n_embd, entry.architecture
    key_dim, value_dim, value_heads = 16 * 128, row["value_heads"] * 128, row["value_heads"]
    prediction = row.get("prediction", 0)
    recurrent = [(i + 1) % 4 != 0 for i in range(shape.layers)] + [False] * prediction
    keys: Keys = {
        "block_count": shape.layers + prediction,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": 64,
        "rope.freq_base": 1e7,
        "full_attention_interval": 4,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
        "ssm.time_step_rank": value_heads,
        "ssm.inner_size": value_dim,
        **attention_keys(entry, row, shape.kv_heads),
    }
    if not row.get("interval"):
        keys["attention.recurrent_layers"] = recurrent
    if prediction:
        keys["nextn_predict_layers"] = prediction
    if arch != "qwen3next":
        keys["rope.dimension_sections"] = [11, 11, 10, 0]
    if "experts" in row:
        keys |= {
            "expert_count": row["experts"],
            "expert_used_count": row["used"],
            "expert_feed_forward_length": row["ff"],
            "expert_shared_feed_forward_length": row["shared"],
        }
    else:
        keys["feed_forward_length"] = shape.n_ff

    def delta(b: str) -> Shapes:
        shapes: Shapes = {
            f"{b}attn_qkv.weight": (2 * key_dim + value_dim, n),
            f"{b}attn_gate.weight": (value_dim, n),
            f"{b}ssm_conv1d.weight": (2 * key_dim + value_dim, 4),
            f"{b}ssm_dt.bias": (value_heads,),
            f"{b}ssm_a": (value_heads,),
            f"{b}ssm_norm.weight": (128,),
            f"{b}ssm_out.weight": (n, value_dim),
        }
        if arch == "qwen3next":
            return shapes | {f"{b}ssm_ba.weight": (2 * value_heads, n)}
        return shapes | {f"{b}ssm_alpha.weight": (value_heads, n), f"{b}ssm_beta.weight": (value_heads, n)}

    def block(i: int, b: str) -> Shapes:
        attention = {
            **attention_tensors(entry, row, b, query=2),
            f"{b}attn_q_norm.weight": (256,),
            f"{b}attn_k_norm.weight": (256,),
        }
        feed_forward = gated_ffn(n, shape.n_ff, b)
        if "experts" in row:
            shared = gated_ffn(n, row["shared"], b, "_shexp") | {f"{b}ffn_gate_inp_shexp.weight": (n,)}
            feed_forward = experts(n, row, b) | shared
        norms = {f"{b}attn_norm.weight": (n,), f"{b}post_attention_norm.weight": (n,)}
        return {
            **norms,
            **(delta(b) if recurrent[i] else attention),
            **feed_forward,
            **prediction_tensors(i, b),
        }

    def prediction_tensors(i: int, b: str) -> Shapes:
        if i < shape.layers:
            return {}
        return {
            f"{b}nextn.eh_proj.weight": (n, 2 * n),
            f"{b}nextn.enorm.weight": (n,),
            f"{b}nextn.hnorm.weight": (n,),
            f"{b}nextn.shared_head_norm.weight": (n,),
        }

    return keys, blocks(shape.layers + prediction, block)


def kimi_linear(entry: Entry, row: dict[str, Any]) -> tuple[Keys, Shapes]:
    shape, n, heads, d, latent, rope = entry.shape, entry.shape.n_embd, row["heads"], 128, 512, 64
    attention = (3, 7, 11, 15, 19, 23, 26)
    keys = {
        "block_count": shape.layers,
        "feed_forward_length": shape.n_ff,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.head_count": heads,
        "attention.head_count_kv": [1 if i in attention else 0 for i in range(shape.layers)],
        "attention.key_length": latent + rope,
        "attention.value_length": 72,  # a figure without a meaning, as published files have it
        "attention.key_length_mla": d + rope,
        "attention.value_length_mla": d,
        "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope,
        "ssm.conv_kernel": 4,
        "kda.head_dim": d,
        "expert_count": row["experts"],
        "expert_used_count": row["used"],
        "expert_feed_forward_length": row["ff"],
        "expert_shared_count": 1,
        "expert_weights_scale": 2.446,
        "expert_gating_func": 2,
        "leading_dense_block_count": 1,
    }

    def kda(b: str) -> Shapes:
        wide = heads * d
        return {
            **{f"{b}attn_{c}.weight": (wide, n) for c in "qkv"},
            **{f"{b}ssm_conv1d_{c}.weight": (1, wide, 1, 4) for c in "qkv"},
            f"{b}ssm_f_a.weight": (d, n),
            f"{b}ssm_f_b.weight": (wide, d),
            f"{b}ssm_g_a.weight": (d, n),
            f"{b}ssm_g_b.weight": (wide, d),
            f"{b}ssm_beta.weight": (heads, n),
            f"{b}ssm_a": (heads, 1),
            f"{b}ssm_dt.bias": (wide,),
            f"{b}ssm_norm.weight": (d,),
            f"{b}attn_output.weight": (n, wide),
        }

    def mla(b: str) -> Shapes:
        return {
            f"{b}attn_q.weight": (heads * (d + rope), n),
            f"{b}attn_kv_a_mqa.weight": (latent + rope, n),
            f"{b}attn_kv_a_norm.weight": (latent,),
            f"{b}attn_k_b.weight": (heads, latent, d),
            f"{b}attn_v_b.weight": (heads, d, latent),
            f"{b}attn_output.weight": (n, heads * d),
        }

    def block(i: int, b: str) -> Shapes:
        feed_forward = gated_ffn(n, shape.n_ff, b)
        if i:
            feed_forward = experts(n, row, b) | gated_ffn(n, row["ff"], b, "_shexp")
            feed_forward[f"{b}exp_probs_b.bias"] = (row["experts"],)
        norms = {f"{b}attn_norm.weight": (n,), f"{b}ffn_norm.weight": (n,)}
        return {**norms, **(mla(b) if i in attention else kda(b)), **feed_forward}

    return keys, blocks(shape.layers, block)


FAMILIES: dict[str, Callable[[Entry, dict[str, Any]], tuple[Keys, Shapes]]] = {
    "granitehybrid": granite,
    "falcon-h1": falcon_h1,
    "jamba": jamba,
    "mamba": mamba,
    "mamba2": mamba,
    "nemotron_h": nemotron,
    "nemotron_h_moe": nemotron,
    "qwen3next": qwen,
    "qwen35": qwen,
    "qwen35moe": qwen,
    "kimi-linear": kimi_linear,
}


def parameters(shapes: Shapes, leave_out: Sequence[str] = ()) -> int:
    return sum(
        int(np.prod(s)) for name, s in shapes.items() if not name.startswith(tuple(leave_out) or ("?",))
    )
