"""Writes a model file anew with some keys and float32 tensors changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray


def rewritten(
    source: Path,
    target: Path,
    tensors: Mapping[str, NDArray[Any]],
    keys: Mapping[str, int] | None = None,
    raw_dtype: gguf.GGMLQuantizationType | None = None,
    without: Sequence[str] = (),
) -> Path:
    """`tensors` replace those of their names, or are added; in `raw_dtype`, if they are blocks. `keys` replace integers."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = field.types
            sub = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
            value = (keys or {}).get(field.name, field.contents())
            writer.add_key_value(field.name, value, kinds[0], sub_type=sub)
    written = {t.name: t.data.reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors}
    for name, data in {**written, **tensors}.items():
        if name in without:
            continue
        is_raw = name in tensors and data.dtype == np.uint8
        writer.add_tensor(name, data, raw_dtype=raw_dtype if is_raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def fused_kimi(source: Path, target: Path) -> Path:
    """A Kimi Linear file as older converters wrote it: of each head the rows of W_k, then those of W_v, in one attn_kv_b."""
    names = [f"blk.1.attn_{which}_b.weight" for which in "kv"]
    read = {t.name: np.array(t.data) for t in gguf.GGUFReader(source).tensors if t.name in names}
    keys, values = (read[name] for name in names)  # [H, d_latent, d_nope], [H, d_value, d_latent]
    fused = np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, values.shape[2])
    length = {"kimi-linear.attention.key_length": 32}  # of a whole head, not of a latent row
    return rewritten(source, target, {"blk.1.attn_kv_b.weight": fused}, length, without=names)
