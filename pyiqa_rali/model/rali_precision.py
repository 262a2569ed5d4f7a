"""A net that computes in the precision that was asked for, whatever surrounds it."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from pyiqa_rali.model.image_encoder import ImageEncoder
from pyiqa_rali.model.metric_net import MetricNet
from pyiqa_rali.model.precision import reason_for_fp32, warn_of_fp32
from pyiqa_rali.model.whole_float32 import whole_float32

_DECIDING = threading.Lock()


class NetOfPrecision(MetricNet):
    """The part of a `RALI` that keeps its precision; what asks for it is the constructor of `RALI`.

    Attributes:
        image_encoder: what computes in that precision; all else computes in float32.
        precision: 'fp32', 'bf16' or 'fp16'.
    """

    image_encoder: ImageEncoder
    precision: str
    _dtype: torch.dtype
    _undecided: bool  # whether bfloat16 was asked for, and it is not known whether it is faster on this CPU

    def _decide_if_on_cpu(self) -> None:
        """Decide between bfloat16 and float32 before weights are rounded, where only the CPU can be meant."""
        if self._undecided and not torch.accelerator.is_available():
            self._decide_on_bf16()

    def _decide_on_bf16(self) -> None:
        """Compute in float32 from now on where bfloat16 is slower; weights that are already rounded stay rounded."""
        with _DECIDING:
            if self._undecided:
                reason = reason_for_fp32(self.image_encoder)
                if reason is not None:
                    warn_of_fp32(reason)
                    self.precision, self._dtype = 'fp32', torch.float32
                    self._narrow()
                self._undecided = False

    def _own_precision(self, images: Tensor) -> contextlib.AbstractContextManager:
        """Keep a surrounding autocast out: scores are computed in the precision that was asked for. Training may use it."""
        kind = images.device.type
        if self.training or not torch.amp.is_autocast_available(kind):
            return contextlib.nullcontext()
        if kind != 'cpu' or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return torch.autocast(kind, enabled=False)
        return _cpu_precision()

    def _narrow(self) -> None:
        self.image_encoder.narrow(self._dtype)


@contextlib.contextmanager
def _cpu_precision() -> Iterator[None]:
    with torch.autocast('cpu', enabled=False), whole_float32():
        yield
