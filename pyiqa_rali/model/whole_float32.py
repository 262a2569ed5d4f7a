"""Float32 on CPUs without rounding to bfloat16 or TF32, whatever a program has allowed PyTorch elsewhere."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

WHOLE, ROUNDED = 'ieee', ('bf16', 'tf32')
KINDS = 'matmul', 'conv'  # of `torch.backends.mkldnn`, from PyTorch 2.9 on


class _Held:
    """How many computations want whole float32 now, and what the program had before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before: dict[str, str] = {}


_HELD = _Held()


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Compute products and convolutions of float32 on CPUs in float32; afterwards the program has its own settings again.

    `torch.set_float32_matmul_precision('medium')` lets oneDNN round to bfloat16 on processors that have units for it, in
    every part of a program. The setting is the process's: while one thread is in here, others compute in float32 too.
    """
    with _HELD.lock:
        if not _HELD.count:
            _HELD.before = {kind: found for kind in KINDS if (found := _setting(kind)) in ROUNDED}
            _set(dict.fromkeys(_HELD.before, WHOLE))
        _HELD.count += 1
    try:
        yield
    finally:
        with _HELD.lock:
            _HELD.count -= 1
            if not _HELD.count:
                _set(_HELD.before)


def _setting(kind: str) -> str | None:
    """Return the precision that products or convolutions of float32 have now; None where PyTorch is too old to tell."""
    return getattr(getattr(torch.backends.mkldnn, kind, None), 'fp32_precision', None)


def _set(precisions: dict[str, str]) -> None:
    for kind, precision in precisions.items():
        found: Any = getattr(torch.backends.mkldnn, kind)
        found.fp32_precision = precision
