"""Who supplies the kernels of a model's ops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import KernelFailed, KernelMissing
from ..native_api import registry
from ..native_api.kernels import Call, Kernel
from ..ops import Contract


@dataclass(frozen=True)
class Supply:
    """The contract of one op and its registered kernels in order of preference.

    `by_ggml` are types of weights that ggml multiplies by on this machine although a kernel would.
    """

    contract: Contract
    kernels: tuple[Kernel, ...]
    by_ggml: tuple[str, ...] = ()

    def willing(self, call: Call) -> Kernel | None:
        """The first kernel that takes this call."""
        return next((kernel for kernel in self.kernels if kernel.ask(call).ok), None)

    def choose(self, call: Call) -> Kernel:
        """The first kernel that takes this call. Raises KernelFailed with every refusal when none does, KernelMissing without any."""
        refusals = []
        for kernel in self.kernels:
            answer = kernel.ask(call)
            if answer.ok:
                return kernel
            refusals.append((kernel, answer))
        if not refusals:
            raise KernelMissing(self.contract.op)
        kernel, answer = refusals[0]
        words = "; ".join(f"{k.plugin}: {a.text or a.name}" for k, a in refusals)
        raise KernelFailed(kernel.plugin, kernel.op, answer.name, words)


def accelerators(ops: Iterable[str]) -> Mapping[str, Supply]:
    """What is registered for ops that ggml can do as well; nobody has to register anything."""
    found = {op: registry.kernels_for(op) for op in ops}
    return {op: Supply(registry.contract_for(op), kernels) for op, kernels in found.items() if kernels}


def registered_supply(ops: Iterable[str]) -> Mapping[str, Supply]:
    """What is registered now for each op; ask `registry.missing` first."""
    return {op: Supply(registry.contract_for(op), registry.kernels_for(op)) for op in ops}
