"""May llama.cpp rearrange weights for its own kernels on this machine?

Its AMX product crashes when ggml was compiled by a GCC that drops stores to the tile configuration (seen with GCC 12: any
quantised weight, two rows or more). Nothing in the library tells, so where the CPU has AMX a child process tries one
tiny model once, and the answer is kept until the library changes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np

from ..child import python_command
from ..settings import home

WIDTH, VOCABULARY = 64, 96
TIMEOUT_S = 60


@functools.cache
def repacking_is_safe() -> bool:
    """True where llama.cpp's default weight layout can be trusted not to crash."""
    if not needs_a_trial():
        return True
    library = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu*"))[0].stat()
    answer = home() / "machine" / f"amx-{library.st_size}-{library.st_mtime_ns}.json"
    try:
        return bool(json.loads(answer.read_text()))
    except (OSError, ValueError):
        pass
    # The folder is this process's: a child that crashes cleans nothing up.
    with tempfile.TemporaryDirectory(prefix="conifer-probe-") as folder:
        command = [*python_command("conifer_gguf.runtimes.repack"), folder]
        try:
            child = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
            safe = child.returncode == 0
        except subprocess.TimeoutExpired:
            safe = False
    with contextlib.suppress(OSError):  # a home that cannot be written costs a trial each time, and no model
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.write_text(json.dumps(safe))
    return safe


def needs_a_trial() -> bool:
    """True where the processor has AMX, whose products are the ones that crash."""
    return "amx_int8" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def main() -> None:
    """Decode a few tokens of a random one-layer model with the default layout; crashes where that crashes."""
    path = Path(sys.argv[1]) / "probe.gguf"
    _write_model(path)
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    context = lib.llama_init_from_model(model, lib.llama_context_default_params())
    tokens = (lib.llama_token * 5)(1, 2, 3, 4, 5)
    status = lib.llama_decode(context, lib.llama_batch_get_one(tokens, 5))
    sys.exit(0 if status == 0 else 1)


def _write_model(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(0)
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": VOCABULARY, **{f"blk.0.{name}": WIDTH for name in names}}
    for name, rows in shapes.items():
        weight = random.standard_normal((rows, WIDTH)).astype(np.float32)
        quantised = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
