"""A checkpoint under GGUF's names and in GGUF's layout, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]
CHECKPOINTS = Path(__file__).parent / "checkpoints"
STEP = "conifer_demo.step"  # the key that holds how far a file was trained

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
ROTATED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")


def heads_of(inside: str, config: Any) -> int:
    return int(config.num_attention_heads if "q_proj" in inside else config.num_key_value_heads)


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
    if config.model_type == "llama" and inside in ROTATED:
        # llama's rotation pairs neighbours, Hugging Face's the two halves of a head.
        halves = array.reshape(heads_of(inside, config), 2, -1, array.shape[1])
        return halves.swapaxes(1, 2).reshape(array.shape)
    return array


def read_checkpoint(path: Path, model: Any) -> tuple[dict[str, torch.Tensor], int]:
    """The weights that `tensors` wrote, and the step."""
    reader = gguf.GGUFReader(path)
    held = {t.name: np.array(gguf.dequantize(t.data, t.tensor_type), np.float32) for t in reader.tensors}
    arrays = {name: found_in(held, name, model.config) for name in model.state_dict()}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(array.reshape(shapes[name]).copy()) for name, array in arrays.items()}
    return state, int(reader.fields[STEP].contents())


def found_in(held: dict[str, Array], name: str, config: Any) -> Array:
    """One tensor of a checkpoint, laid out as Hugging Face has it."""
    if name in OUTSIDE or name == "lm_head.weight":
        return held[OUTSIDE.get(name, "token_embd.weight")]
    _, _, layer, inside = name.split(".", 3)
    if inside == "shared_mlp.input_linear.weight":
        return np.concatenate([held[f"blk.{layer}.ffn_{half}.weight"] for half in ("gate", "up")])
    array = held[f"blk.{layer}.{LAYER[inside]}"]
    if inside == "mamba.A_log":
        return np.log(-array)
    if config.model_type == "llama" and inside in ROTATED:
        pairs = array.reshape(heads_of(inside, config), -1, 2, array.shape[1])
        return pairs.swapaxes(1, 2)
    return array
