"""The two shapes: a Granite-4.0-H hybrid (Mamba-2 with two attention layers, no positions) and its dense twin."""

from __future__ import annotations

import math

import torch
from corpus import VOCABULARY
from induction import start_dense, start_hybrid
from scan import BatchedMamba
from transformers import (
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

KIND = {"m": "linear_attention", "a": "full_attention"}
LAYERS = "mamam"
SHARED = {"vocab_size": VOCABULARY, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
              "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32768}  # fmt: skip


def hybrid() -> PreTrainedModel:
    config = GraniteMoeHybridConfig(
        **SHARED,
        num_hidden_layers=len(LAYERS),
        layer_types=[KIND[kind] for kind in LAYERS],
        intermediate_size=320,
        shared_intermediate_size=320,
        num_local_experts=0,
        num_experts_per_tok=0,
        position_embedding_type=None,
        embedding_multiplier=16.0,  # the embedding's rows have length 1 and its entries 1/16
        logits_scaling=1.0,
        residual_multiplier=0.5,
        attention_multiplier=1 / 8,
        mamba_n_heads=8,
        mamba_d_head=64,
        mamba_d_state=64,
        mamba_n_groups=1,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_chunk_size=32,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
    )
    model = GraniteMoeHybridForCausalLM(config)
    spread_time_scales(model)
    start_hybrid(model)
    for layer in model.model.layers:
        if layer.mamba is not None:
            layer.mamba.__class__ = BatchedMamba
    return model


@torch.no_grad()
def spread_time_scales(model: PreTrainedModel) -> None:
    """Steps from 1e-3 to 1e-1 and A from 1 to 16, as Mamba-2 starts (arXiv:2405.21060, appendix): some heads
    forget within a sentence, some keep a fact over a thousand tokens."""
    for layer in model.model.layers:
        mixer = layer.mamba
        if mixer is not None:
            heads = mixer.dt_bias.shape[0]
            step = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), heads))
            mixer.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
            mixer.A_log.copy_(torch.log(torch.linspace(1, 16, heads)[torch.randperm(heads)]))


def dense() -> PreTrainedModel:
    config = LlamaConfig(
        **SHARED,
        num_hidden_layers=6,
        intermediate_size=384,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},  # half of a head hardly rotates
    )
    model = LlamaForCausalLM(config)
    start_dense(model)
    return model


MODELS = {"conifer-demo": hybrid, "conifer-demo-dense": dense}
