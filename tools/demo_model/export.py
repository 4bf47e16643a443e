"""Write a trained demo model as GGUF, in bf16 (what training resumes from) and in Q8_0 (what the package ships).

    python tools/demo_model/export.py conifer-demo --runs runs --out DIR

Needs torch, transformers, tokenizers and gguf.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from chats import END, PAD, START, TEMPLATE
from gguf import GGMLQuantizationType as Quant
from model import MODELS
from numpy.typing import NDArray

Array = NDArray[np.float32]

LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mamba.in_proj.weight": "ssm_in.weight",
    "mamba.conv1d.weight": "ssm_conv1d.weight",
    "mamba.conv1d.bias": "ssm_conv1d.bias",
    "mamba.dt_bias": "ssm_dt.bias",
    "mamba.A_log": "ssm_a",
    "mamba.D": "ssm_d",
    "mamba.norm.weight": "ssm_norm.weight",
    "mamba.out_proj.weight": "ssm_out.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "shared_mlp.output_linear.weight": "ffn_down.weight",
}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
# Small, and the precision of a whole channel or head hangs on each value.
KEPT_IN_F32 = ("norm.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", ".bias")


def tensors(state: dict[str, torch.Tensor], config: Any) -> Iterator[tuple[str, Array]]:
    """The checkpoint under GGUF's names and in GGUF's layout."""
    for name, value in state.items():
        array: Array = value.float().numpy()
        if name == "lm_head.weight":  # the embedding once more
            continue
        if name in OUTSIDE:
            yield OUTSIDE[name], array
            continue
        _, _, layer, inside = name.split(".", 3)
        blk = f"blk.{layer}"
        if inside == "shared_mlp.input_linear.weight":
            gate, up = np.split(array, 2)
            yield f"{blk}.ffn_gate.weight", gate
            yield f"{blk}.ffn_up.weight", up
        else:
            yield f"{blk}.{LAYER[inside]}", laid_out(inside, array, config)


def laid_out(inside: str, array: Array, config: Any) -> Array:
    if inside == "mamba.A_log":
        return -np.exp(array)[:, None]
    if inside == "mamba.D":
        return array[:, None]
    if inside == "mamba.conv1d.weight":
        return array[:, 0]
    if inside == "mamba.norm.weight":
        return array.reshape(config.mamba_n_groups, -1)
    if config.model_type == "llama" and inside in ("self_attn.q_proj.weight", "self_attn.k_proj.weight"):
        # llama's rotation pairs neighbours, Hugging Face's the two halves of a head.
        heads = config.num_attention_heads if "q_proj" in inside else config.num_key_value_heads
        halves = array.reshape(heads, 2, -1, array.shape[1])
        return halves.swapaxes(1, 2).reshape(array.shape)
    return array


def from_gguf(path: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The checkpoint that `tensors` wrote."""
    config = model.config
    held = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    state = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            name_there = "token_embd.weight"
        elif name in OUTSIDE:
            name_there = OUTSIDE[name]
        else:
            _, _, layer, inside = name.split(".", 3)
            if inside == "shared_mlp.input_linear.weight":
                halves = [held[f"blk.{layer}.ffn_{half}.weight"] for half in ("gate", "up")]
                state[name] = torch.from_numpy(np.concatenate(halves))
                continue
            name_there = f"blk.{layer}.{LAYER[inside]}"
            if inside == "mamba.A_log":
                state[name] = torch.from_numpy(np.log(-held[name_there][:, 0]))
                continue
            if config.model_type == "llama" and inside in (
                "self_attn.q_proj.weight",
                "self_attn.k_proj.weight",
            ):
                heads = config.num_attention_heads if "q_proj" in inside else config.num_key_value_heads
                pairs = held[name_there].reshape(heads, -1, 2, value.shape[1])
                state[name] = torch.from_numpy(pairs.swapaxes(1, 2).reshape(value.shape).copy())
                continue
        state[name] = torch.from_numpy(held[name_there].reshape(value.shape).copy())
    return state


def write(
    path: Path, name: str, config: Any, arrays: dict[str, Array], tokenizer: Path, quant: Quant
) -> None:
    architecture = {"llama": "llama", "granitemoehybrid": "granitehybrid"}[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    describe(writer, name, config, sum(a.size for a in arrays.values()))
    add_tokenizer(writer, tokenizer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q8_0 if quant == Quant.Q8_0 else gguf.LlamaFileType.MOSTLY_BF16
    )
    for tensor, array in arrays.items():
        kind = Quant.F32 if tensor.endswith(KEPT_IN_F32) else quant
        writer.add_tensor(tensor, gguf.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, name: str, config: Any, n_parameters: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(f"{n_parameters / 1e6:.1f}M")
    writer.add_license("mit")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    d_head = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(d_head)
    if config.model_type == "llama":
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        return
    attends = [kind == "full_attention" for kind in config.layer_types]
    writer.add_feed_forward_length(config.shared_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)
    writer.add_head_count_kv([config.num_key_value_heads if yes else 0 for yes in attends])
    writer.add_rope_scaling_finetuned(False)  # to both runtimes: positions are not rotated
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_logit_scale(config.logits_scaling)
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_group_count(config.mamba_n_groups)
    writer.add_ssm_inner_size(config.mamba_n_heads * config.mamba_d_head)
    writer.add_ssm_time_step_rank(config.mamba_n_heads)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """Byte-level BPE whose digits stand alone: what llama.cpp calls `smollm`."""
    bpe = json.loads(path.read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    control = (PAD, START, END)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_bos_token_id(tokens.index(START))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("--runs", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = MODELS[args.name]().config
    state = torch.load(args.runs / args.name / "state.pt", weights_only=True)
    arrays = dict(tensors(state["model"], config))
    for quant in (Quant.BF16, Quant.Q8_0):
        path = args.out / f"{args.name}-{quant.name}.gguf"
        write(path, args.name, config, arrays, args.runs / "tokenizer.json", quant)
        print(f"{path}: step {state['step']}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
