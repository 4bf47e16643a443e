#!/usr/bin/env python3
"""Reference-case generator for a GGUF runner.

For every case it
  1. builds a randomly initialised Hugging Face model from a tiny config (fixed seed, weights that keep
     the hidden states O(1), realistic A / dt / D ranges, non-default multipliers),
  2. trains a small tokenizer (byte level BPE, or SentencePiece for the archs that use one),
  3. converts the checkpoint to GGUF (f32) with llama.cpp's converter, in place (--llama-cpp DIR),
  4. evaluates the HF model (float64 arithmetic throughout, plus plain float32) on a fixed token sequence and
     greedily continues it,
  5. evaluates llama.cpp (llama-cpp-python) on the same GGUF, in one batch, token by token and in odd chunks,
  6. quantises to Q8_0 and Q4_K_M with llama.cpp and records llama.cpp's logits for those, both as is
     and with the quantised weights expanded back to f32 (no activation quantisation: exact target).

    python make_reference.py --llama-cpp DIR [--out DIR] [--cases a,b|all] [--list]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import argparse
import ctypes
import json
import math
import re
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import draws
import variants

HERE = Path(__file__).resolve().parent
VOCAB = 512
N_TOKENS = 200
N_GREEDY = 32
HIDDEN_POS = [0, 1, 2, 3, 62, 63, 64, 65, 126, 127, 128, 129, 196, 197, 198, 199]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CORPUS = """
The state of a recurrent layer is a small matrix that is carried from one token to the next. At each step the
layer forgets a little of what it has seen, writes something new, and reads out an answer for the next layer.
Attention does the opposite: it keeps every key and every value, and looks at all of them again each time.
A hybrid model has many layers of the first kind and a few of the second, so that long documents stay cheap.
When the river rose in the spring, the people of the village moved their boats to the upper meadow and waited.
They told stories about the mountain, about the old mill, and about the winter when the wolves came to the gate.
In the morning the water had gone down again, and the children ran along the bank to see what it had left there.
How much is 12 + 30? It is 42. What about 7 * 8? That is 56, and 1024 is 2 to the power of 10. It's easy, isn't it?
def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(i, add(i, 1))\n
int main(void) { for (int i = 0; i < n; ++i) { sum += x[i] * w[i]; } return 0; }
{"name": "value", "list": [1, 2, 3], "flag": true, "nothing": null}
Les enfants jouaient près de la rivière. Où étaient les bateaux ? Peut-être dans le pré, là-bas.
Der Fluss stieg im Frühling, und die Leute warteten. Größe, Straße, überall Wasser.
Снег лежал на горе до самого лета. 山上的雪到夏天才化。川の水は冷たい。 🙂 🚀
The quick brown fox jumps over the lazy dog. The five boxing wizards jump quickly. Pack my box with jugs of ink.
the the the and and of of to to in in is is that that was was for for with with on on as as are are they they
"""

TOKENIZER_TESTS = [
    "Hello, world!",
    "The river rose in the spring.",
    "  leading and trailing spaces  ",
    "tabs\tand\nnewlines\n\n\nand   runs",
    "it's you're I'LL 1234567890 3.14",
    "été naïve Größe Снег 山上的雪 🙂🚀 e\u0301",
    "def f(x):\n    return x**2  # comment\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "",
    " ",
    "a",
    "\u00a0nbsp \u200bzwsp",
]


# --------------------------------------------------------------------------------------------------------------
# tokenizers
# --------------------------------------------------------------------------------------------------------------

def make_bpe_tokenizer(dst: Path, add_bos: bool, vocab: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=1,
    )
    tok.train_from_iterator([CORPUS], trainer)
    assert tok.get_vocab_size() == vocab, tok.get_vocab_size()
    tok.save(str(dst / "tokenizer.json"))
    cfg = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHATML,
    }
    (dst / "tokenizer_config.json").write_text(json.dumps(cfg, indent=1))


def make_spm_tokenizer(dst: Path, vocab: int) -> None:
    import sentencepiece as spm

    lines = [line for line in CORPUS.split("\n") if line]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_prefix=str(dst / "tokenizer"),
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        character_coverage=0.98,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="<|pad|>", bos_piece="<|startoftext|>", eos_piece="<|endoftext|>", unk_piece="<|unk|>",
        control_symbols=["<|im_start|>", "<|im_end|>"],
        num_threads=1,
        minloglevel=2,
    )
    (dst / "tokenizer.vocab").unlink()
    cfg = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "unk_token": "<|unk|>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": CHATML,
    }
    (dst / "tokenizer_config.json").write_text(json.dumps(cfg, indent=1))


def hf_encode(tok_dir: Path, text: str) -> list[int]:
    if (tok_dir / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(tok_dir / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    import sentencepiece as spm

    sp = spm.SentencePieceProcessor(model_file=str(tok_dir / "tokenizer.model"))
    out: list[int] = []
    for part in re.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
        if part in ("<|im_start|>", "<|im_end|>"):
            out.append(sp.piece_to_id(part))
        elif part:
            out.extend(sp.encode(part))
    return out


# --------------------------------------------------------------------------------------------------------------
# random weights
# --------------------------------------------------------------------------------------------------------------

def randomise(model, seed: int, opts: dict) -> None:
    """Fill every parameter from a fixed generator, by role (told from its name and shape)."""
    import torch

    gen = torch.Generator().manual_seed(seed)

    def normal(shape, std=1.0, mean=0.0):
        return torch.randn(shape, generator=gen, dtype=torch.float64) * std + mean

    def uniform(shape, lo, hi):
        return torch.rand(shape, generator=gen, dtype=torch.float64) * (hi - lo) + lo

    def dt_bias(shape):
        dt = torch.exp(uniform(shape, math.log(1e-3), math.log(1.0)))
        return dt + torch.log(-torch.expm1(-dt))  # inverse softplus

    zero_centred = opts.get("zero_centred_norm", False)
    cfg = model.config
    tied = bool(getattr(cfg, "tie_word_embeddings", False))
    embed_std = 1.0 / float(getattr(cfg, "embedding_multiplier", None) or 1.0)
    head_mult = float(getattr(cfg, "lm_head_multiplier", None) or 1.0) / float(getattr(cfg, "logits_scaling", None) or 1.0)
    head_std = 3.0 / head_mult * cfg.hidden_size ** -0.5  # logits of about 3 rms
    done: set[int] = set()
    items = list(model.named_parameters()) + [
        (n, b) for n, b in model.named_buffers()
        if n.endswith(("e_score_correction_bias", "expert_bias"))
    ]
    with torch.no_grad():
        for name, p in items:
            if id(p) in done:
                continue
            done.add(id(p))
            leaf = name.rsplit(".", 1)[-1]
            s = p.shape
            if leaf == "A_log":
                if opts.get("A_log") == "s4d" or (p.ndim == 2):  # mamba 1: log(1..d_state) with noise
                    base = torch.log(torch.arange(1, s[-1] + 1, dtype=torch.float64)).expand(s)
                    v = base + normal(s, 0.2)
                else:
                    v = torch.log(uniform(s, 0.5, 16.0))
            elif leaf == "D":
                v = normal(s, 0.4, 1.0)
            elif leaf == "dt_bias" or name.endswith("dt_proj.bias"):
                v = dt_bias(s)
            elif leaf in ("e_score_correction_bias", "expert_bias"):
                v = normal(s, 0.3)
            elif name.endswith("dt_proj.weight"):
                v = normal(s, 0.5 * s[-1] ** -0.5)
            elif "conv" in name and p.ndim == 3:
                v = normal(s, s[-1] ** -0.5)
            elif "conv" in name and leaf == "bias":
                v = normal(s, 0.3)
            elif tied and re.fullmatch(r"(model|backbone)\.(norm|norm_f|final_layernorm|embedding_norm)\.weight", name):
                # Tied embeddings: signs at random, else every token would predict itself
                v = normal(s, 0.2, 1.0) * torch.sign(normal(s)) * head_std / embed_std - (1.0 if zero_centred else 0.0)
            elif p.ndim == 1 and leaf == "weight":  # norms
                v = normal(s, 0.2, 0.0 if (zero_centred and not name.endswith("linear_attn.norm.weight")) else 1.0)
            elif leaf == "bias":
                v = normal(s, 0.1)
            elif "embed" in name and p.ndim == 2:
                v = normal(s, embed_std)
            elif "lm_head" in name and p.ndim == 2:
                v = normal(s, head_std)
            elif p.ndim in (2, 3):
                gain = 1.0
                if re.search(r"(router|gate)\.weight$|router\.layer\.weight$", name) and s[0] <= 64:
                    gain = opts.get("router_gain", 2.0)
                elif re.search(r"(q_proj|k_proj)", name):
                    gain = opts.get("qk_gain", 1.4)
                elif re.search(r"(o_proj|out_proj|down_proj|output_linear|\.w2\.|latent_proj)", name):
                    gain = opts.get("branch_gain", 0.5)
                v = normal(s, gain * s[-1] ** -0.5)
            else:
                raise ValueError(f"do not know how to fill {name} {tuple(s)}")
            p.copy_(v.to(torch.float32).to(p.dtype))  # values are exactly representable in f32


# --------------------------------------------------------------------------------------------------------------
# cases
# --------------------------------------------------------------------------------------------------------------

CASES: dict[str, callable] = {}


def case(fn):
    CASES[fn.__name__] = fn
    return fn


COMMON = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=3, pad_token_id=0)


def granite_cfg(**kw):
    from transformers import GraniteMoeHybridConfig

    d = dict(
        **COMMON, hidden_size=256, intermediate_size=512, shared_intermediate_size=512,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=True,
        embedding_multiplier=12.0, logits_scaling=3.0, residual_multiplier=0.6, attention_multiplier=0.09,
        num_local_experts=0, num_experts_per_tok=0, position_embedding_type=None,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        mamba_n_heads=8, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1, mamba_d_conv=4,
        mamba_expand=2, mamba_chunk_size=64, mamba_conv_bias=True, mamba_proj_bias=False,
    )
    d.update(kw)
    return GraniteMoeHybridConfig(**d)


def granite_json(c):
    """The config.json as the released checkpoints spell it."""
    c["layer_types"] = [{"linear_attention": "mamba", "full_attention": "attention"}[t] for t in c["layer_types"]]
    c.pop("layers_block_type", None)
    return c


@case
def granite_hybrid_dense():
    from transformers import GraniteMoeHybridForCausalLM as M

    return dict(cls=M, cfg=granite_cfg(), json=granite_json, add_bos=False)


def jamba_cfg(**kw):
    from transformers import JambaConfig

    d = dict(
        vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=True,
        num_experts=1, num_experts_per_tok=1, expert_layer_period=2, expert_layer_offset=1,
        attn_layer_period=4, attn_layer_offset=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
        mamba_dt_rank=16, mamba_conv_bias=True, mamba_proj_bias=False, use_mamba_kernels=False,
    )
    d.update(kw)
    return JambaConfig(**d)


def jamba_json(c):
    c.pop("layer_types", None)
    c.pop("layers_block_type", None)
    return c


@case
def jamba_dense():
    from transformers import JambaForCausalLM as M

    return dict(cls=M, cfg=jamba_cfg(), json=jamba_json, tokenizer="spm")


def qwen35_kw(**kw):
    d = dict(
        **COMMON, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        linear_conv_kernel_dim=4, linear_key_head_dim=64, linear_value_head_dim=64,
        linear_num_key_heads=4, linear_num_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                         "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    )
    d.update(kw)
    return d


@case
def qwen3_5_dense():
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM as M

    return dict(cls=M, cfg=Qwen3_5TextConfig(**qwen35_kw()), flags=["--no-mtp"], opts=dict(zero_centred_norm=True))


@case
def falcon_h1():
    """Parallel attention + mamba2 with every multiplier set, d_ssm != 2 * hidden, no mixer norm."""
    from transformers import FalconH1Config, FalconH1ForCausalLM as M

    return dict(cls=M, cfg=FalconH1Config(**falcon_kw()))


def falcon_kw(**kw):
    d = dict(
        **COMMON, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False,
        mamba_d_ssm=512, mamba_n_heads=8, mamba_d_head=64, mamba_n_groups=1, mamba_d_state=128, mamba_d_conv=4,
        mamba_expand=2, mamba_chunk_size=64, mamba_norm_before_gate=False, mamba_rms_norm=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e11},
        embedding_multiplier=5.65, lm_head_multiplier=0.0390625, key_multiplier=0.6, attention_in_multiplier=0.9,
        attention_out_multiplier=0.94, ssm_in_multiplier=1.25, ssm_out_multiplier=0.8,
        mlp_multipliers=[0.88, 0.6], ssm_multipliers=[0.84, 0.5, 0.7, 0.9, 0.6],
    )
    d.update(kw)
    return d


@case
def mamba2():
    from transformers import Mamba2Config, Mamba2ForCausalLM as M

    cfg = Mamba2Config(
        **COMMON, hidden_size=256, num_hidden_layers=4, num_heads=8, head_dim=64, state_size=128, n_groups=2, expand=2,
        conv_kernel=4, chunk_size=64, layer_norm_epsilon=1e-5, tie_word_embeddings=False, residual_in_fp32=True,
    )
    return dict(cls=M, cfg=cfg)


@case
def mamba1():
    from transformers import MambaConfig, MambaForCausalLM as M

    cfg = MambaConfig(
        **COMMON, hidden_size=256, num_hidden_layers=4, state_size=16, expand=2, conv_kernel=4, time_step_rank=16,
        layer_norm_epsilon=1e-5, tie_word_embeddings=True, residual_in_fp32=True,
    )
    return dict(cls=M, cfg=cfg)


QWEN_MOE = dict(
    moe_intermediate_size=64, shared_expert_intermediate_size=128, num_experts_per_tok=2, num_experts=8,
    norm_topk_prob=True,
)


@case
def qwen3_next():
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM as M

    kw = qwen35_kw(
        **QWEN_MOE, linear_num_key_heads=2, linear_num_value_heads=4, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    )
    return dict(cls=M, cfg=Qwen3NextConfig(**kw), flags=["--no-mtp"], opts=dict(zero_centred_norm=True, router_gain=4.0))


def nemotron_cfg(pattern, **kw):
    from transformers import NemotronHConfig

    names = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
    d = dict(
        **COMMON, hidden_size=256, layers_block_type=[names[c] for c in pattern], tie_word_embeddings=False,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
        intermediate_size=512, mlp_hidden_act="relu2", ssm_state_size=128, mamba_num_heads=8, mamba_head_dim=64,
        n_groups=2, conv_kernel=4, expand=2, chunk_size=64, layer_norm_epsilon=1e-5,
        time_step_min=1e-12,  # HF clamps dt from below at this value, llama.cpp does not clamp
    )
    d.update(kw)
    return NemotronHConfig(**d)


def nemotron_json(pattern, moe):
    def fix(c):
        for k in ("layers_block_type", "layer_types", "mtp_layers_block_type"):
            c.pop(k, None)
        c["hybrid_override_pattern"] = pattern
        c["num_hidden_layers"] = len(pattern)
        if not moe:
            for k in [k for k in c if "moe" in k or "expert" in k or k in ("n_group", "topk_group")]:
                del c[k]
        return c

    return fix


@case
def nemotron_h():
    from transformers import NemotronHForCausalLM as M

    p = "M-M*-M-"
    return dict(cls=M, cfg=nemotron_cfg(p), json=nemotron_json(p, False))


@case
def kimi_linear():
    """Kimi Delta Attention + MLA (no rope) + MoE with a shared expert, first layer dense."""
    from transformers import KimiLinearConfig, KimiLinearForCausalLM as M

    cfg = KimiLinearConfig(
        **COMMON, hidden_size=256, intermediate_size=512, moe_intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, routed_scaling_factor=2.446,
        kv_lora_rank=128, q_lora_rank=None, qk_rope_head_dim=32, v_head_dim=64, qk_nope_head_dim=64, n_group=1,
        topk_group=1, num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=4096, rms_norm_eps=1e-5,
        tie_word_embeddings=False, num_local_experts=8,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
        linear_head_dim=64, linear_num_heads=4, linear_conv_kernel_dim=4,
    )

    def fix(c):
        for k in ("layer_types", "mlp_layer_types", "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim"):
            c.pop(k, None)
        c.update(
            linear_attn_config={"full_attn_layers": [3], "kda_layers": [1, 2, 4], "head_dim": 64, "num_heads": 4,
                                "short_conv_kernel_size": 4},
            first_k_dense_replace=1, moe_layer_freq=1, num_experts=8, num_experts_per_token=2, num_shared_experts=1,
            moe_renormalize=True, moe_router_activation_func="sigmoid", num_expert_group=1, topk_group=1,
            use_grouped_topk=True, model_max_length=4096, mla_use_nope=True, rope_theta=10000.0,
        )
        return c

    return dict(
        cls=M, cfg=cfg, json=fix, opts=dict(router_gain=1.5),
        # saving maps every mlp back to the MoE spelling, the dense first layer too
        rename=lambda k: k.replace("model.layers.0.block_sparse_moe.", "model.layers.0.mlp."),
    )


@case
def lfm2():
    from transformers import Lfm2Config, Lfm2ForCausalLM as M

    cfg = Lfm2Config(
        **COMMON, hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, norm_eps=1e-5, tie_word_embeddings=True, conv_bias=False,
        conv_L_cache=3, block_multiple_of=256, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
        layer_types=["conv", "conv", "full_attention", "conv", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return dict(cls=M, cfg=cfg)


@case
def lfm2_moe():
    from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM as M

    cfg = Lfm2MoeConfig(
        **COMMON, hidden_size=256, intermediate_size=512, moe_intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, norm_eps=1e-5,
        tie_word_embeddings=True, conv_bias=False, conv_L_cache=3, num_dense_layers=1, num_experts=8,
        num_experts_per_tok=2, use_expert_bias=True, routed_scaling_factor=1.0, norm_topk_prob=True,
        layer_types=["conv", "full_attention", "conv", "conv"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return dict(cls=M, cfg=cfg, opts=dict(router_gain=1.5))


@case
def lfm2_small():
    """Small enough to be kept in the repository; no two sizes equal."""
    from transformers import Lfm2Config, Lfm2ForCausalLM as M

    cfg = Lfm2Config(
        **COMMON, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, norm_eps=1e-5, tie_word_embeddings=True, conv_bias=False,
        conv_L_cache=3, block_multiple_of=32, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention", "conv"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return dict(cls=M, cfg=cfg)


@case
def lfm2_moe_small():
    """Small enough to be kept in the repository; no two sizes equal."""
    from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM as M

    cfg = Lfm2MoeConfig(
        **COMMON, hidden_size=96, intermediate_size=160, moe_intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=1024, norm_eps=1e-5,
        tie_word_embeddings=True, conv_bias=False, conv_L_cache=3, num_dense_layers=1, num_experts=8,
        num_experts_per_tok=2, use_expert_bias=True, routed_scaling_factor=1.0, norm_topk_prob=True,
        layer_types=["conv", "full_attention", "conv"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return dict(cls=M, cfg=cfg, opts=dict(router_gain=1.5))


@case
def qwen3():
    """Dense control: NEOX-type rope, q/k norms, head_dim * heads != hidden, tied embeddings."""
    from transformers import Qwen3Config, Qwen3ForCausalLM as M

    cfg = Qwen3Config(
        **COMMON, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return dict(cls=M, cfg=cfg)


# --------------------------------------------------------------------------------------------------------------
# evaluation: Hugging Face
# --------------------------------------------------------------------------------------------------------------

def keep_f64_mode():
    """A torch mode under which every request for float32 yields float64, so that a model's internal
    "do this part in float32" casts do not lose the precision of a float64 evaluation."""
    import torch
    from torch.overrides import TorchFunctionMode

    def up(x):
        return torch.float64 if x is torch.float32 else x

    class KeepF64(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = {k: up(v) for k, v in (kwargs or {}).items()}
            args = tuple(up(a) for a in args)
            if func is torch.Tensor.float:
                func = torch.Tensor.double
            return func(*args, **kwargs)

    return KeepF64()


def hf_run(model, tokens: list[int], n_greedy: int):
    """-> logits over tokens (f64 run), logits (f32 run), greedy tokens, logits at the greedy steps, margins,
    the residual stream after each layer (f64 run)."""
    import numpy as np
    import torch

    def logits_of(ids):
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    with torch.no_grad():
        f32 = logits_of(tokens).float().numpy().copy()
        model.double()
        torch.set_default_dtype(torch.float64)
        try:
            layers = next(m for n, m in model.named_modules() if n in ("model.layers", "backbone.layers"))
            hidden = {}
            hooks = [
                layer.register_forward_hook(
                    lambda mod, args, out, i=i: hidden.__setitem__(i, (out[0] if isinstance(out, tuple) else out)[0].numpy().copy())
                    if i not in hidden else None)
                for i, layer in enumerate(layers)
            ]
            with keep_f64_mode():
                f64 = logits_of(tokens).numpy().copy()
                for h in hooks:
                    h.remove()
                ids, greedy, steps, margins = list(tokens), [], [], []
                last = f64[-1]
                for _ in range(n_greedy):
                    top = np.argsort(last)
                    greedy.append(int(top[-1]))
                    margins.append(float(last[top[-1]] - last[top[-2]]))
                    ids.append(greedy[-1])
                    last = logits_of(ids).numpy()[-1]
                    steps.append(last.copy())
        finally:
            torch.set_default_dtype(torch.float32)
    assert f64.dtype == np.float64
    hidden = np.stack([hidden[i].reshape(len(tokens), -1) for i in sorted(hidden)])
    return f64, f32, greedy, np.stack(steps), margins, hidden


# --------------------------------------------------------------------------------------------------------------
# evaluation: llama.cpp
# --------------------------------------------------------------------------------------------------------------

_log_cb = None


class Llama:
    """llama.cpp through the low level API: 1 thread, f32 KV cache, no flash attention, no repacked weights."""

    def __init__(self, path: Path, n_ctx: int = 512):
        import llama_cpp as L

        global _log_cb
        if _log_cb is None:
            self_log = []

            @L.llama_log_callback
            def quiet(level, text, user):
                if level >= 3 and os.environ.get("REFERENCE_VERBOSE"):
                    sys.stderr.write(text.decode(errors="replace"))

            _log_cb = quiet
            L.llama_log_set(_log_cb, ctypes.c_void_p(0))
            L.llama_backend_init()
        self.L = L
        mp = L.llama_model_default_params()
        mp.n_gpu_layers = 0
        mp.use_extra_bufts = False
        self.model = L.llama_model_load_from_file(str(path).encode(), mp)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab = L.llama_model_get_vocab(self.model)
        self.n_vocab = L.llama_vocab_n_tokens(self.vocab)
        self.n_ctx = n_ctx
        self.ctx = None
        self.reset()

    def reset(self):
        L = self.L
        if self.ctx:
            L.llama_free(self.ctx)
        cp = L.llama_context_default_params()
        cp.n_ctx = self.n_ctx
        cp.n_batch = self.n_ctx
        cp.n_ubatch = self.n_ctx
        cp.n_seq_max = 1
        cp.n_threads = 1
        cp.n_threads_batch = 1
        cp.type_k = 0
        cp.type_v = 0
        cp.flash_attn_type = 0
        cp.offload_kqv = False
        self.ctx = L.llama_init_from_model(self.model, cp)
        if not self.ctx:
            raise RuntimeError("llama.cpp cannot make a context")
        self.pos = 0

    def decode(self, tokens):
        import numpy as np

        L, n = self.L, len(tokens)
        b = L.llama_batch_init(n, 0, 1)
        b.n_tokens = n
        for i, t in enumerate(tokens):
            b.token[i] = int(t)
            b.pos[i] = self.pos + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = 1
        rc = L.llama_decode(self.ctx, b)
        L.llama_batch_free(b)
        if rc != 0:
            raise RuntimeError(f"llama_decode: {rc}")
        self.pos += n
        p = L.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(p, shape=(n * self.n_vocab,)).reshape(n, self.n_vocab).copy()

    def tokenize(self, text: str, add_special=False, parse_special=True):
        L = self.L
        raw = text.encode()
        buf = (L.llama_token * (len(raw) + 16))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), buf, len(raw) + 16, add_special, parse_special)
        return list(buf[:n])

    def close(self):
        if self.ctx:
            self.L.llama_free(self.ctx)
        self.L.llama_model_free(self.model)
        self.ctx = self.model = None


def llama_run(path: Path, tokens, n_greedy=0, extra=False):
    import numpy as np

    m = Llama(path)
    out = {"logits": m.decode(tokens)}
    if n_greedy:
        toks, steps = [], []
        last = out["logits"][-1]
        for _ in range(n_greedy):
            toks.append(int(last.argmax()))
            last = m.decode([toks[-1]])[0]
            steps.append(last)
        out["greedy"], out["greedy_logits"] = toks, np.stack(steps)
    if extra:
        m.reset()
        out["seq"] = np.concatenate([m.decode([t]) for t in tokens])
        m.reset()
        parts, i, sizes = [], 0, [1, 2, 67, 30, 64, 3, 500]
        for s in sizes:
            if i < len(tokens):
                parts.append(m.decode(tokens[i:i + s]))
                i += s
        out["chunks"] = np.concatenate(parts)
        out["tokenize"] = [m.tokenize(t) for t in TOKENIZER_TESTS]
        out["add_bos"] = bool(m.L.llama_vocab_get_add_bos(m.vocab))
    m.close()
    return out


def quantise(src: Path, dst: Path, ftype: int) -> None:
    import llama_cpp as L

    p = L.llama_model_quantize_default_params()
    p.nthread = 1
    p.ftype = ftype
    rc = L.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(p))
    if rc != 0:
        raise RuntimeError(f"llama_model_quantize: {rc}")


def dequantise_gguf(src: Path, dst: Path) -> dict[str, int]:
    """Copy a GGUF with every tensor expanded to f32; -> how many tensors of each type src had."""
    import gguf
    import numpy as np

    r = gguf.GGUFReader(str(src))
    w = gguf.GGUFWriter(str(dst), r.fields["general.architecture"].contents())
    for f in r.fields.values():
        if f.name.startswith("GGUF.") or f.name in ("general.architecture", "general.file_type"):
            continue
        sub = f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        w.add_key_value(f.name, f.contents(), f.types[0], sub_type=sub)
    w.add_file_type(0)
    kinds: dict[str, int] = {}
    for t in r.tensors:
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
        a = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        w.add_tensor(t.name, a.reshape([int(x) for x in reversed(t.shape)]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return kinds


# --------------------------------------------------------------------------------------------------------------
# comparison
# --------------------------------------------------------------------------------------------------------------

def compare(a, ref) -> dict:
    """a against ref: max_rel is relative to the largest |ref|, rms_rel the relative error in the 2-norm."""
    import numpy as np

    a, ref = a.astype(np.float64), ref.astype(np.float64)

    def logsoftmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    la, lr = logsoftmax(a), logsoftmax(ref)
    kl = (np.exp(lr) * (lr - la)).sum(-1)
    return {
        "max_abs": float(np.abs(a - ref).max()),
        "max_rel": float(np.abs(a - ref).max() / np.abs(ref).max()),
        "rms_rel": float(np.sqrt(((a - ref) ** 2).sum() / (ref ** 2).sum())),
        "top1": float((a.argmax(-1) == ref.argmax(-1)).mean()),
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
    }


# --------------------------------------------------------------------------------------------------------------
# conversion (child process: it must import llama.cpp's own gguf-py, not the installed one)
# --------------------------------------------------------------------------------------------------------------

def convert_main(argv) -> None:
    llama_cpp, model_dir, outfile, pre, *flags = argv
    sys.path.insert(0, llama_cpp)
    sys.path.insert(1, str(Path(llama_cpp) / "gguf-py"))
    import torch

    torch.set_num_threads(1)
    import convert_hf_to_gguf as conv
    import conversion.base as base

    class RawConfigOnly:  # the released checkpoints' spelling of the config is what the converter knows
        @staticmethod
        def from_pretrained(*a, **k):
            raise RuntimeError("config.json is read as it is")

    base.AutoConfig = RawConfigOnly
    import transformers  # by architecture, AutoTokenizer would add tokens of its own to ours

    transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert_hf_to_gguf.py", "--outtype", "f32", "--outfile", outfile, "--model-name",
                Path(outfile).parent.name, *flags, model_dir]
    conv.main()


def convert(llama_cpp: Path, model_dir: Path, outfile: Path, pre: str, flags=()) -> None:
    r = subprocess.run(
        [sys.executable, __file__, "_convert", str(llama_cpp), str(model_dir), str(outfile), pre, *flags],
        capture_output=True, text=True,
    )
    (outfile.parent / "convert.log").write_text(r.stdout + r.stderr)
    if r.returncode != 0 or not outfile.exists():
        raise RuntimeError("conversion failed:\n" + "\n".join((r.stdout + r.stderr).splitlines()[-12:]))
    (outfile.parent / "convert.log").unlink()


# --------------------------------------------------------------------------------------------------------------
# one case
# --------------------------------------------------------------------------------------------------------------

def make_tokens(tok_dir: Path, seed: int, n_tokens: int, vocab: int) -> list[int]:
    """BOS-less mixture: text, a chat turn, random ids, and a repeat of an early stretch (so that recall matters)."""
    import random

    rnd = random.Random(seed)
    text = CORPUS.strip().split("\n")
    ids = hf_encode(tok_dir, text[rnd.randrange(0, 6)])[:60]
    ids += hf_encode(tok_dir, "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n")[:40]
    ids += [rnd.randrange(4, vocab) for _ in range(60)]
    ids += ids[5:45]
    while len(ids) < n_tokens:
        ids.append(rnd.randrange(4, vocab))
    return ids[:n_tokens]


def build_case(name: str, llama_cpp: Path, out: Path, keep_hf: bool, seed_offset: int = 0) -> dict:
    import gguf
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(1)
    t0 = time.time()
    seed = (zlib.crc32(name.encode()) + seed_offset) & 0x7FFFFFFF
    spec = draws.build(sys.modules[__name__], name) if "~" in name else CASES[name]()
    opts = spec.get("opts", {})
    d = out / name
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir(parents=True)
    hf = d / "hf"
    hf.mkdir()

    # 1. model
    cfg = spec["cfg"]
    cfg._attn_implementation = "eager"
    cfg._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = spec["cls"](cfg).eval().float()
    if getattr(cfg, "tie_word_embeddings", False):
        model.tie_weights()
    randomise(model, seed, opts)
    n_params = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    model.save_pretrained(hf)
    if spec.get("rename"):
        from safetensors.torch import load_file, save_file

        st = hf / "model.safetensors"
        save_file({spec["rename"](k): v for k, v in load_file(st).items()}, st, metadata={"format": "pt"})
    cfg_path = hf / "config.json"
    c = json.loads(cfg_path.read_text())
    if spec.get("json"):
        c = spec["json"](c)
    cfg_path.write_text(json.dumps(c, indent=1))
    (hf / "generation_config.json").unlink(missing_ok=True)

    # 2. tokenizer
    if spec.get("tokenizer") == "spm":
        make_spm_tokenizer(hf, cfg.vocab_size)
    else:
        make_bpe_tokenizer(hf, spec.get("add_bos", True), cfg.vocab_size)

    # 3. GGUF
    f32 = d / "model-f32.gguf"
    convert(llama_cpp, hf, f32, spec.get("pre", "gpt-2"), spec.get("flags", ()))
    if spec.get("patch"):
        spec["patch"](f32)

    # 4. Hugging Face
    n_tokens = spec.get("n_tokens", N_TOKENS)
    hidden_pos = [p for p in HIDDEN_POS if p < n_tokens]
    tokens = make_tokens(hf, seed, n_tokens, cfg.vocab_size)
    hf64, hf32, greedy, greedy_logits, margins, hidden = hf_run(model, tokens, N_GREEDY)
    del model

    arrays = {
        "tokens": np.array(tokens, np.int32),
        "hf_logits": hf64.astype(np.float32),
        "hf_hidden": hidden[:, hidden_pos].astype(np.float32),
        "hf_hidden_pos": np.array(hidden_pos, np.int32),
        "greedy": np.array(greedy, np.int32),
        "greedy_logits": greedy_logits.astype(np.float32),
        "greedy_margin": np.array(margins, np.float32),
    }
    if not spec.get("llama", True):
        np.savez_compressed(d / "ref.npz", **arrays)
        for f in hf.glob("*.safetensors*"):
            f.unlink()
        meta = dict(name=name, arch=str(cfg.model_type), seed=seed, n_params=n_params, config=c,
                    hf_f32_vs_hf_f64=compare(hf32, hf64), greedy_min_margin=min(margins))
        (d / "meta.json").write_text(json.dumps(meta, indent=1))
        return meta

    # 5. llama.cpp
    import llama_cpp as L

    ll = llama_run(f32, tokens, N_GREEDY, extra=True)
    diffs = {
        "hf_f32_vs_hf_f64": compare(hf32, hf64),
        "llama_f32_vs_hf": compare(ll["logits"], hf64),
        "llama_f32_one_by_one_vs_hf": compare(ll["seq"], hf64),
        "llama_f32_in_chunks_vs_hf": compare(ll["chunks"], hf64),
    }
    same = next((i for i, (a, b) in enumerate(zip(greedy, ll["greedy"])) if a != b), N_GREEDY)
    if same:
        diffs["llama_f32_greedy_steps_vs_hf"] = compare(ll["greedy_logits"][:same], greedy_logits[:same])
    ref = {**arrays, "llama_logits_f32": ll["logits"], "llama_greedy": np.array(ll["greedy"], np.int32)}

    # 6. quantised
    kinds = {}
    for q, ftype in (("q8_0", 7), ("q4_k_m", 15)) if spec.get("quantise", True) else ():
        try:
            g = d / f"model-{q}.gguf"
            quantise(f32, g, ftype)
            lq = llama_run(g, tokens, N_GREEDY)
            tmp = d / "tmp.gguf"
            kinds[q] = dequantise_gguf(g, tmp)
            lqd = llama_run(tmp, tokens)
            tmp.unlink()
            ref[f"llama_logits_{q}"] = lq["logits"]
            ref[f"llama_logits_{q}_dequant"] = lqd["logits"]
            ref[f"llama_greedy_{q}"] = np.array(lq["greedy"], np.int32)
            diffs[f"llama_{q}_vs_hf"] = compare(lq["logits"], hf64)
            diffs[f"llama_{q}_dequant_vs_hf"] = compare(lqd["logits"], hf64)
            diffs[f"llama_{q}_vs_its_dequant"] = compare(lq["logits"], lqd["logits"])
        except Exception as e:
            kinds[q] = f"failed: {e}"
    np.savez_compressed(d / "ref.npz", **ref)

    reader = gguf.GGUFReader(str(f32))
    meta = {
        "name": name,
        "arch": reader.fields["general.architecture"].contents(),
        "seed": seed,
        "n_params": n_params,
        "config": c,
        "opts": opts,
        "hf_logits": "HF model, all arithmetic in float64",
        "greedy": "HF float64, 32 tokens after the given ones; greedy_logits[i] are the logits after feeding greedy[i]",
        "greedy_prefix_agreeing_with_llama": same,
        "greedy_distinct": len(set(greedy)),
        "greedy_min_margin": min(margins),
        "hf_hidden": "residual stream after each layer, [layer, position of hf_hidden_pos, hidden]; HF float64",
        "hf_hidden_rms": [round(float(np.sqrt((h ** 2).mean())), 3) for h in hidden],
        "hf_logit_rms": float(np.sqrt((hf64 ** 2).mean())),
        "diffs": diffs,
        "quantised_tensor_types": kinds,
        "llama_settings": "1 thread, f32 KV cache, no flash attention, no repacking, one batch (ubatch 512)",
        "add_bos": ll["add_bos"],
        "tokenizer_tests": [
            {"text": t, "ids_llama": a, "ids_hf": hf_encode(hf, t)} for t, a in zip(TOKENIZER_TESTS, ll["tokenize"])
        ],
        "versions": {
            "torch": torch.__version__, "transformers": transformers.__version__,
            "llama_cpp_python": L.__version__, "numpy": np.__version__,
        },
        "gguf_metadata": {
            f.name: f.contents() for f in reader.fields.values()
            if not f.name.startswith(("tokenizer.", "GGUF.")) and len(str(f.contents())) < 400
        },
        "gguf_tensors": {t.name: [int(x) for x in t.shape] for t in reader.tensors},
    }
    for f in hf.glob("*.safetensors*"):
        if not keep_hf:
            f.unlink()
    meta["bytes"] = sum(f.stat().st_size for f in d.rglob("*") if f.is_file())
    meta["seconds"] = round(time.time() - t0, 1)
    (d / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False))
    return meta


def summary_line(m) -> str:
    if "diffs" not in m:
        return (f"{m['name']:24s} {m['arch']:15s} {m['n_params'] / 1e6:5.2f}M  hf32/64 {m['hf_f32_vs_hf_f64']['max_abs']:.1e}  "
                f"margin {m['greedy_min_margin']:.1e}")
    x, d = m["diffs"], m["diffs"]["llama_f32_vs_hf"]
    tok = sum(t["ids_llama"] == t["ids_hf"] for t in m["tokenizer_tests"])
    s = (f"{m['name']:24s} {m['arch']:15s} {m['n_params'] / 1e6:5.2f}M  rms(logit) {m['hf_logit_rms']:6.2f}  "
         f"hf32/64 {x['hf_f32_vs_hf_f64']['max_abs']:.1e}  llama abs {d['max_abs']:.1e} rel {d['max_rel']:.1e} "
         f"top1 {d['top1']:.3f}  1x1 {x['llama_f32_one_by_one_vs_hf']['max_abs']:.1e}  "
         f"chunks {x['llama_f32_in_chunks_vs_hf']['max_abs']:.1e}  greedy {m['greedy_prefix_agreeing_with_llama']}/32")
    for q in ("q8_0", "q4_k_m"):
        if f"llama_{q}_vs_hf" in x:
            s += f"  {q} rms {x[f'llama_{q}_vs_hf']['rms_rel']:.1e} (act {x[f'llama_{q}_vs_its_dequant']['rms_rel']:.1e})"
        else:
            s += f"  {q} -"
    return s + f"  tok {tok}/{len(m['tokenizer_tests'])}  {m['bytes'] / 1e6:.1f} MB  {m['seconds']:.0f}s"


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "_convert":
        return convert_main(sys.argv[2:])
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--llama-cpp", type=Path, required="--list" not in sys.argv, help="llama.cpp source tree (for its converter)")
    ap.add_argument("--out", type=Path, default=HERE / "cases")
    ap.add_argument("--cases", default="all", help="comma separated names, or all; FAMILY~SEED is a random draw")
    ap.add_argument("--draws", type=int, default=0, help="random draws of each family in --cases, in place of the cases")
    ap.add_argument("--seed", type=int, default=0, help="added to the seed of each case: other weights, other tokens")
    ap.add_argument("--keep-hf", action="store_true", help="keep the Hugging Face weights too")
    ap.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    ap.add_argument("--list", action="store_true")
    a = ap.parse_args()
    if a.list:
        print("\n".join(CASES))
        return
    names = list(CASES) if a.cases == "all" else a.cases.split(",")
    if a.draws:
        names = list(draws.names(a.cases, a.draws))
    if a.in_process:
        for name in names:
            print(summary_line(build_case(name, a.llama_cpp, a.out, a.keep_hf, a.seed)), flush=True)
        return
    bad = []
    for name in names:  # a child each: llama.cpp aborts the process when an assertion of its fails
        cmd = [sys.executable, __file__, "--llama-cpp", str(a.llama_cpp), "--out", str(a.out), "--cases", name, "--in-process",
               "--seed", str(a.seed)]
        r = subprocess.run(cmd + (["--keep-hf"] if a.keep_hf else []), capture_output=True, text=True)
        if r.returncode == 0:
            print(r.stdout.strip().splitlines()[-1], flush=True)
        else:
            bad.append(name)
            shutil.rmtree(a.out / name, ignore_errors=True)
            why = [l for l in r.stderr.splitlines() if "GGML_ASSERT" in l or "error" in l.lower()] or r.stderr.splitlines()
            print(f"{name:24s} FAILED ({r.returncode}): " + "\n    ".join(why[-4:]), flush=True)
            if os.environ.get("REFERENCE_VERBOSE"):
                sys.stderr.write(r.stderr)
    index = {p.parent.name: json.loads(p.read_text()) for p in sorted(a.out.glob("*/meta.json"))}
    (a.out / "index.json").write_text(json.dumps({
        n: {k: m[k] for k in ("arch", "n_params", "bytes", "hf_logit_rms", "hf_hidden_rms", "greedy_prefix_agreeing_with_llama",
                              "greedy_distinct", "greedy_min_margin", "diffs", "quantised_tensor_types")}
        for n, m in index.items() if "diffs" in m}, indent=1))
    sys.exit(1 if bad else 0)


CASES.update(variants.cases(sys.modules[__name__]))

if __name__ == "__main__":
    main()
