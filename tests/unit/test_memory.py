"""What a model costs, against published figures; and the window that fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conifer_gguf.engine import memory
from conifer_gguf.errors import DoesNotFit
from conifer_gguf.gguf import Header
from conifer_gguf.gguf.header import TensorInfo
from conifer_gguf.gguf.types import TENSOR_TYPES

MIB = 1 << 20


def header(architecture: str, **keys: object) -> Header:
    metadata = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{name.replace('__', '.')}": value for name, value in keys.items()}
    embedding = TensorInfo("token_embd.weight", (100352, 32), TENSOR_TYPES[0], 0, 100352 * 32 * 4)
    return Header(Path("x.gguf"), 3, metadata, {"token_embd.weight": embedding}, 0, 0)  # type: ignore[arg-type]


GRANITE_1B = header(
    "granitehybrid",
    block_count=40,
    embedding_length=1536,
    feed_forward_length=4096,
    context_length=1048576,
    attention__head_count=12,
    attention__head_count_kv=[4 if i in (5, 15, 25, 35) else 0 for i in range(40)],
    ssm__conv_kernel=4,
    ssm__inner_size=3072,
    ssm__state_size=128,
    ssm__time_step_rank=48,
    ssm__group_count=1,
)
FALCON_500M = header(
    "falcon-h1",
    block_count=36,
    embedding_length=1024,
    feed_forward_length=2048,
    attention__head_count=8,
    attention__head_count_kv=2,
    attention__key_length=64,
    attention__value_length=64,
    ssm__conv_kernel=4,
    ssm__inner_size=1536,
    ssm__state_size=128,
    ssm__group_count=1,
)
QWEN_800M = header(
    "qwen35",
    block_count=25,
    nextn_predict_layers=1,
    embedding_length=1024,
    attention__head_count=8,
    attention__head_count_kv=2,
    attention__key_length=256,
    attention__value_length=256,
    full_attention_interval=4,
    ssm__conv_kernel=4,
    ssm__inner_size=2048,
    ssm__state_size=128,
    ssm__group_count=16,
)
NEMOTRON_4B = header(
    "nemotron_h",
    block_count=42,
    embedding_length=3136,
    attention__head_count=40,
    attention__head_count_kv=[8 if i in (12, 17, 24, 32) else 0 for i in range(42)],
    feed_forward_length=[12544 if c == "-" else 0 for c in "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-"],
    attention__key_length=128,
    attention__value_length=128,
    ssm__conv_kernel=4,
    ssm__inner_size=7680,
    ssm__state_size=128,
    ssm__group_count=8,
)
JAMBA_3B = header(
    "jamba",
    block_count=28,
    embedding_length=2560,
    attention__head_count=20,
    attention__head_count_kv=[1 if i in (7, 21) else 0 for i in range(28)],
    ssm__conv_kernel=4,
    ssm__inner_size=5120,
    ssm__state_size=16,
)
KIMI_48B = header(
    "kimi-linear",
    block_count=27,
    embedding_length=2304,
    attention__head_count=32,
    attention__head_count_kv=[1 if i in (3, 7, 11, 15, 19, 23, 26) else 0 for i in range(27)],
    attention__key_length=576,
    kda__head_dim=128,
    ssm__conv_kernel=4,
)

PUBLISHED = {  # bytes of cache per token (f16) and of carry
    "granite-4.0-h-1b": (GRANITE_1B, 8_192, 58_060_800),
    "falcon-h1-0.5b": (FALCON_500M, 18_432, 29_085_696),
    "qwen3.5-0.8b with its prediction layer": (QWEN_800M, 12_288, 20_201_472),
    "nemotron-3-nano-4b": (NEMOTRON_4B, 16_384, 85_026_816),
    "jamba-reasoning-3b": (JAMBA_3B, 1_024, 10_117_120),
    "kimi-linear-48b": (KIMI_48B, 8_064, 44_892_160),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_cache_and_carry_are_the_published_figures(name: str) -> None:
    model, cache, carry = PUBLISHED[name]
    shape = memory.geometry(model)
    assert shape.kv_bytes_per_token == cache
    assert shape.carry_bytes == carry


def test_the_cache_grows_with_the_window_and_the_scores_until_flash_attention_takes_over() -> None:
    shape = memory.geometry(GRANITE_1B)
    short, long = memory.plan(shape, 4096), memory.plan(shape, 32768)
    assert long.cache - short.cache == 8_192 * (32768 - 4096)
    scores = 4 * 512 * 12  # bytes a token of the scores of one step
    assert (short.flash, long.flash) == (False, True)
    assert short.scratch - long.scratch == scores * 4096


def test_our_engine_needs_no_scores_and_grows_with_the_window_by_cache_and_mask() -> None:
    shape = memory.geometry(GRANITE_1B)
    short, long = (memory.plan(shape, n, "f32", runtime="hybrid") for n in (4096, 32768))
    assert long.cache - short.cache == 16_384 * (32768 - 4096)
    assert long.scratch - short.scratch == 2 * 512 * (32768 - 4096)
    # What the arena of the 1B model was measured to hold: 35 and 63 MiB.
    assert short.scratch == pytest.approx(35 * MIB, rel=0.1)
    assert long.scratch == pytest.approx(63 * MIB, rel=0.1)


def test_without_an_attention_kernel_one_layers_f16_values_are_widened_to_decode() -> None:
    shape = memory.geometry(GRANITE_1B)
    plan = memory.plan(shape, 131_072, runtime="hybrid")
    one_layer = 4 * 128  # heads of keys and values x size
    assert plan.scratch == 4 * one_layer * 131_072


def test_with_an_attention_kernel_scratch_does_not_grow_with_the_window() -> None:
    shape = memory.geometry(GRANITE_1B)
    short, long = (memory.plan(shape, n, runtime="hybrid", attention_kernel=True) for n in (4096, 131_072))
    assert long.scratch == short.scratch == pytest.approx(31 * MIB, rel=0.1)  # measured
    assert long.cache == 32 * short.cache


def test_older_kimi_files_keep_one_latent_row_too() -> None:
    keys = dict(KIMI_48B.metadata) | {
        "kimi-linear.attention.key_length": 192,
        "kimi-linear.attention.head_count_kv": [
            32 * n for n in KIMI_48B.metadata["kimi-linear.attention.head_count_kv"]
        ],
        "kimi-linear.attention.kv_lora_rank": 512,
        "kimi-linear.rope.dimension_count": 64,
    }
    assert memory.geometry(dataclasses.replace(KIMI_48B, metadata=keys)).kv_bytes_per_token == 8_064


@pytest.mark.parametrize(("cache_type", "bytes_per_token"), [("f32", 16384), ("f16", 8192), ("q8_0", 4352)])
def test_the_cache_type_decides_what_a_token_costs(cache_type: str, bytes_per_token: int) -> None:
    assert memory.plan(memory.geometry(GRANITE_1B), 1024, cache_type).cache == bytes_per_token * 1024


def test_the_window_shrinks_to_what_is_free() -> None:
    shape = memory.geometry(GRANITE_1B)
    free = memory.plan(shape, 3000).total - 1
    found = memory.fit("m", shape, free=free)
    assert found.n_ctx == 2816  # 3000 is padded to 3072, which is one byte too much
    assert found.total <= free


def test_the_window_is_never_longer_than_the_native_length() -> None:
    small = header("llama", block_count=2, embedding_length=64, context_length=2048, attention__head_count=4)
    assert memory.fit("m", memory.geometry(small), free=1 << 40).n_ctx == 2048


def test_a_load_that_cannot_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(DoesNotFit) as caught:
        memory.fit("granite", memory.geometry(GRANITE_1B), n_ctx=500_000, free=3 << 30)
    error = caught.value
    assert error.free == 3 << 30
    assert error.needed > error.free
    assert 0 < error.largest_ctx < 500_000
    assert f"--ctx {error.largest_ctx}" in str(error.hint)
    assert memory.fit("granite", memory.geometry(GRANITE_1B), n_ctx=error.largest_ctx, free=3 << 30)


def test_a_cgroup_limit_counts_as_all_the_memory_there_is(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{700 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{200 * MIB}\n")
    assert memory.free_memory(tmp_path) == 500 * MIB
