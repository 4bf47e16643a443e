"""Bounded reading of GGUF headers: hostile files fail here, before any native code."""
