"""Writes a model file anew with some keys and float32 tensors changed."""

from __future__ import annotations

from collections.abc import Mapping
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
        is_raw = name in tensors and data.dtype == np.uint8
        writer.add_tensor(name, data, raw_dtype=raw_dtype if is_raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
