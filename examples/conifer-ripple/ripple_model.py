#!/usr/bin/env python3
"""Write a random Ripple model: python ripple_model.py ripple-tiny-F32.gguf"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

# No two of these are equal that could be confused, so that a swapped axis shows.
N_VOCAB, N_EMBD, N_FF, N_HEAD, D_KEY, D_VALUE, D_HEAD, D_CONV = 320, 48, 72, 3, 14, 18, 20, 4
N_HEAD_KV = [0, 1, 0]  # per layer
EPS = 1e-5

Tensors = dict[str, NDArray[np.float32]]


def random_tensors(seed: int) -> Tensors:
    """Every tensor of the file, in GGUF's names and shapes (slowest axis first)."""
    rng = np.random.default_rng(seed)

    def matrix(n_out: int, n_in: int, gain: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal((n_out, n_in)) * gain * n_in**-0.5).astype(np.float32)

    def norm(n: int) -> NDArray[np.float32]:
        return (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)

    keys, values = N_HEAD * D_KEY, N_HEAD * D_VALUE
    tensors: Tensors = {
        "token_embd.weight": matrix(N_VOCAB, N_EMBD, N_EMBD**0.5),
        "output_norm.weight": norm(N_EMBD) * rng.choice([-1, 1], N_EMBD).astype(np.float32),
    }
    for i, n_head_kv in enumerate(N_HEAD_KV):
        b = f"blk.{i}."
        tensors[f"{b}attn_norm.weight"], tensors[f"{b}ffn_norm.weight"] = norm(N_EMBD), norm(N_EMBD)
        if n_head_kv:
            tensors[f"{b}attn_q.weight"] = matrix(N_HEAD * D_HEAD, N_EMBD)
            tensors[f"{b}attn_k.weight"] = matrix(n_head_kv * D_HEAD, N_EMBD)
            tensors[f"{b}attn_v.weight"] = matrix(n_head_kv * D_HEAD, N_EMBD)
            tensors[f"{b}attn_output.weight"] = matrix(N_EMBD, N_HEAD * D_HEAD, 0.5)
        else:
            tensors[f"{b}attn_qkv.weight"] = matrix(2 * keys + values, N_EMBD)
            tensors[f"{b}attn_gate.weight"] = matrix(values, N_EMBD)
            tensors[f"{b}ssm_conv1d.weight"] = matrix(2 * keys + values, D_CONV)
            tensors[f"{b}ssm_alpha.weight"] = matrix(N_HEAD, N_EMBD)
            tensors[f"{b}ssm_beta.weight"] = matrix(N_HEAD, N_EMBD)
            tensors[f"{b}ssm_a"] = -rng.uniform(0.5, 8.0, N_HEAD).astype(np.float32)
            tensors[f"{b}ssm_dt.bias"] = rng.uniform(-4.0, 0.0, N_HEAD).astype(np.float32)
            tensors[f"{b}ssm_norm.weight"] = norm(D_VALUE)
            tensors[f"{b}ssm_out.weight"] = matrix(N_EMBD, values, 0.5)
        tensors[f"{b}ffn_gate.weight"] = matrix(N_FF, N_EMBD)
        tensors[f"{b}ffn_up.weight"] = matrix(N_FF, N_EMBD)
        tensors[f"{b}ffn_down.weight"] = matrix(N_EMBD, N_FF, 0.5)
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    writer = gguf.GGUFWriter(path, "ripple")
    writer.add_block_count(len(N_HEAD_KV))
    writer.add_context_length(8192)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(D_HEAD)
    writer.add_value_length(D_HEAD)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_ssm_conv_kernel(D_CONV)
    writer.add_ssm_state_size(D_KEY)
    writer.add_ssm_inner_size(N_HEAD * D_VALUE)
    add_tokenizer(writer)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Bytes, and a few words that nobody needs."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [f"▁w{i}" for i in range(N_VOCAB - len(tokens))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (N_VOCAB - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(N_VOCAB)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


if __name__ == "__main__":
    write(Path(sys.argv[1]), random_tensors(seed=7))
