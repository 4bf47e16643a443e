"""Tokenizer and detokenizer: llama.cpp's, for every runtime.

`load_vocabulary` reads a model's vocabulary alone. For an architecture that the installed llama.cpp does not know, a
temporary GGUF that calls itself `llama` and holds only the `tokenizer.*` keys gives the same tokens.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib

from ..errors import RuntimeFailure
from ..gguf import Header
from . import llama_log

NO_TOKEN = -1
ATTR_UNKNOWN, ATTR_CONTROL = 1 << 0, 1 << 3  # llama_token_attr; only parse_special makes either from text


class LlamaVocabulary:
    """A `Vocabulary` over a loaded llama.cpp model; valid while that model is. Thread-safe once made."""

    def __init__(self, model: lib.llama_model_p, *, owned: bool = False) -> None:
        self._model = model if owned else None
        self._vocab = lib.llama_model_get_vocab(model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.bos = _token(lib.llama_vocab_bos(self._vocab))
        self.eos = _token(lib.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        template = lib.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8") if template else None

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            lib.llama_model_free(self._model)
            self._model = None

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        data = text.encode("utf-8", "replace")  # half a surrogate pair has no UTF-8
        room = len(data) + 8  # a token covers at least a byte; the rest is BOS, EOS and a leading space
        tokens = (lib.llama_token * room)()
        n = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
        if n < 0:
            tokens = (lib.llama_token * -n)()
            n = lib.llama_tokenize(self._vocab, data, len(data), tokens, -n, add_special, parse_special)
        return list(tokens[:n])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = int(lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special))
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        ids = (lib.llama_token * len(tokens))(*tokens)
        room = 16 * len(tokens) + 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = int(lib.llama_detokenize(self._vocab, ids, len(tokens), buffer, room, False, special))
            if n >= 0:
                return buffer.raw[:n].decode("utf-8", "replace")
            room = -n

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        return bool(lib.llama_vocab_get_attr(self._vocab, token) & (ATTR_UNKNOWN | ATTR_CONTROL))


def _token(value: int) -> int | None:
    return None if value == NO_TOKEN else int(value)


def load_vocabulary(header: Header) -> LlamaVocabulary:
    """Load only the vocabulary of a model file; its weights are not read. Any thread; the interpreter's lock is released.

    Raises RuntimeFailure when llama.cpp can make nothing of the tokenizer keys.
    """
    model = _load_vocabulary_only(header.path)
    if model is None:
        with tempfile.TemporaryDirectory(prefix="conifer-vocab-") as folder:
            stripped = Path(folder) / "vocabulary.gguf"
            _write_tokenizer_keys(header, stripped)
            model = _load_vocabulary_only(stripped)
    if model is None:
        raise RuntimeFailure(f"loading the vocabulary of {header.path.name}", llama_log.last_words())
    return LlamaVocabulary(model, owned=True)


def _load_vocabulary_only(path: Path) -> lib.llama_model_p | None:
    llama_log.install()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    return lib.llama_model_load_from_file(str(path).encode(), params)


def _write_tokenizer_keys(header: Header, target: Path) -> None:
    """A GGUF named `llama` with nothing but the tokenizer of `header`."""
    writer = gguf.GGUFWriter(target, "llama")
    reader = gguf.GGUFReader(header.path)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=sub_type)
    # llama.cpp reads a few shape keys even for the vocabulary alone.
    writer.add_context_length(8)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
