"""Write a trained demo model as GGUF, in bf16 (what training resumes from) and in Q8_0 (what the package ships).

    python tools/demo_model/export.py conifer-demo --runs runs --out DIR

Needs torch, transformers, tokenizers and gguf.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from chats import END, PAD, START, TEMPLATE
from checkpoint import STEP, Array, tensors
from corpus import TOKENIZER
from gguf import GGMLQuantizationType as Quant
from model import MODELS
from tokenizers import Tokenizer

# Small, and the precision of a whole channel or head hangs on each value.
KEPT_IN_F32 = ("norm.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", ".bias")


def write(path: Path, name: str, config: Any, arrays: dict[str, Array], step: int, quant: Quant) -> None:
    architecture = {"llama": "llama", "granitemoehybrid": "granitehybrid"}[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    describe(writer, name, config, sum(a.size for a in arrays.values()))
    writer.add_uint32(STEP, step)
    add_tokenizer(writer, TOKENIZER)
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


TEXTS = (
    "Once there was a fox called Pip who lived by the river.",
    "The secret number of Mira is 4821; the train leaves at 7:45.",
    "  two  spaces\n\n\nand\t\ttabs  ",
    "na\u00efve caf\u00e9 \u2014 12345 \u65e5\u672c\u8a9e \U0001f600!",
    "don't we'll I'm",
    "a\n b\n  c   ",
)


def tokenized(path: Path) -> list[tuple[str, list[int]]]:
    """What the library that trained the tokenizer makes of some texts, for llama.cpp to agree with."""
    tokenizer = Tokenizer.from_file(str(path))
    return [(text, tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS]


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
    (args.out / "tokens.json").write_text(json.dumps(tokenized(TOKENIZER)))
    for quant in (Quant.BF16, Quant.Q8_0):
        path = args.out / f"{args.name}-{quant.name}.gguf"
        write(path, args.name, config, arrays, state["step"], quant)
        print(f"{path}: step {state['step']}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
