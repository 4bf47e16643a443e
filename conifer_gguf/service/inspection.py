"""What a model file is, from its header alone: architecture, layers, sizes, quantisation mix, tokenizer, runtime."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from ..arch import geometry
from ..gguf import Header, SkippedArray, read_header
from . import status


@dataclass(frozen=True)
class Inspection:
    """Sizes in bytes. `quantisation` maps a tensor type to how many tensors and bytes have it."""

    path: str
    architecture: str
    name: str | None
    file_size: int
    version: int
    n_tensors: int
    parameters: int
    layer_kinds: dict[str, int]
    context: int
    n_embd: int
    n_vocab: int
    kv_bytes_per_token: int
    state_bytes: int
    quantisation: dict[str, dict[str, int]]
    tokenizer: str
    has_chat_template: bool
    split: str | None
    status: str
    runtime: str | None
    needs: tuple[str, ...]
    supply: tuple[str, ...]
    also_runs_with: tuple[str, ...]
    words: str
    reason: str

    def as_row(self) -> dict[str, object]:
        return asdict(self)


def inspect(path: Path, requested: str = "auto") -> Inspection:
    """Read the header; nothing is loaded. Raises BadModelFile."""
    header = read_header(path)
    shape = geometry(header)
    state = status.of_file(header, requested)
    return Inspection(
        path=str(path),
        architecture=header.architecture,
        name=header.get("general.name"),
        file_size=header.file_size,
        version=header.version,
        n_tensors=len(header.tensors),
        parameters=sum(t.n_elements for t in header.tensors.values()),
        layer_kinds=dict(Counter(shape.layer_kinds)),
        context=shape.n_ctx_train,
        n_embd=shape.n_embd,
        n_vocab=shape.n_vocab,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        state_bytes=shape.carry_bytes,
        quantisation=quantisation(header),
        tokenizer=tokenizer(header),
        has_chat_template="tokenizer.chat_template" in header.metadata,
        split=split(header),
        status=state.status,
        runtime=state.runtime,
        needs=state.needs,
        supply=state.supply,
        also_runs_with=state.also_runs_with,
        words=state.words,
        reason=state.reason,
    )


def quantisation(header: Header) -> dict[str, dict[str, int]]:
    mix: dict[str, dict[str, int]] = {}
    for tensor in header.tensors.values():
        row = mix.setdefault(tensor.type.name, {"tensors": 0, "bytes": 0})
        row["tensors"] += 1
        row["bytes"] += tensor.nbytes
    return dict(sorted(mix.items(), key=lambda item: -item[1]["bytes"]))


def tokenizer(header: Header) -> str:
    tokens = header.get("tokenizer.ggml.tokens")
    count = tokens.length if isinstance(tokens, SkippedArray) else len(tokens or ())
    return f"{header.get('tokenizer.ggml.model', 'none')}/{header.get('tokenizer.ggml.pre', 'default')}, {count} tokens"


def split(header: Header) -> str | None:
    parts = int(header.get("split.count", 0))
    return f"part {int(header.get('split.no', 0)) + 1} of {parts}" if parts > 1 else None
