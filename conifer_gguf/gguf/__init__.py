"""Bounded reading of GGUF headers: hostile files fail here, before any native code."""

from .header import Header, SkippedArray, TensorInfo, read_header

__all__ = ["Header", "SkippedArray", "TensorInfo", "read_header"]
