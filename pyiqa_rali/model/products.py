"""Matrix products of linear layers on CPUs, by the faster of PyTorch's two libraries."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer whose products take `linear`."""

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return linear(values, self.weight, self.bias)


def linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what `torch.nn.functional.linear` does, to float32's rounding.

    In float32 PyTorch asks MKL, which leaves half of the vector units of AMD's CPUs idle; oneDNN, which it brings too, uses
    them (measured: 1.9 times faster on AVX-512). oneDNN's product has no gradient and no place in exported graphs: there
    PyTorch's own is taken.
    """
    plain = (values.dtype != torch.float32 or values.device.type != 'cpu' or torch.is_grad_enabled()
             or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export())
    if plain or not onednn_multiplies():
        return F.linear(values, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, 'none', [], '')


@functools.cache
def onednn_multiplies() -> bool:
    """Whether this build of PyTorch has oneDNN's product in the form that is known here, and it is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    values, weight, bias = torch.linspace(-1, 1, 24).view(1, 2, 12), torch.linspace(-1, 2, 36).view(3, 12), torch.ones(3)
    try:
        found = torch.ops.mkldnn._linear_pointwise(values, weight, bias, 'none', [], '')
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.linear(values, weight, bias), atol=1e-5)
