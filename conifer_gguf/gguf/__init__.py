"""Bounded reading of GGUF headers: hostile files fail here, before any native code."""

from .header import Header, SkippedArray, TensorInfo, read_header
from .types import TENSOR_TYPES, TensorType

__all__ = ["TENSOR_TYPES", "Header", "SkippedArray", "TensorInfo", "TensorType", "read_header"]
