"""How a file stretches its rotary embedding to positions that the model was not trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RopeScaling:
    """What `ggml_rope_ext` does besides rotating: `positions` multiplies them, `extrapolation` 1 asks for YaRN.

    Source: YaRN, arXiv:2309.00071; its factor sqrt(1/t) on the rotated values is ggml's doing, `magnitude` comes on top.
    """

    positions: float = 1.0
    extrapolation: float = 0.0
    magnitude: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    n_ctx_original: int = 0


NO_SCALING = RopeScaling()
