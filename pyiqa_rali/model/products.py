"""Matrix products of linear layers on CPUs, by whichever of PyTorch's two libraries is faster on this machine."""

import functools
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.race import fastest, times
from pyiqa_rali.model.whole_float32 import whole_float32

TORCH, ONEDNN, BF16 = 'torch', 'onednn', 'bf16'
VARIABLE = 'PYIQA_RALI_PRODUCTS'  # torch or onednn, instead of a race
ROWS, WIDTH, OUT = 577, 1024, 4096  # the largest product of CLIP ViT-L/14-336, for one picture: two thirds of its time


class Linear(nn.Linear):
    """A linear layer whose products use `linear`."""

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return linear(values, self.weight, self.bias)


def linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what `torch.nn.functional.linear` does, up to the rounding of float32.

    In float32 PyTorch uses MKL. oneDNN, which it also includes, is twice as fast on some processors and half as fast on others.
    Its product has no gradient and cannot be exported: there PyTorch's own is used.
    """
    elsewhere = (values.dtype != torch.float32 or weight.dtype != torch.float32 or values.device.type != 'cpu'
                 or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
                 or (torch.is_grad_enabled() and (values.requires_grad or weight.requires_grad or bias.requires_grad)))
    if elsewhere:
        return F.linear(values, weight, bias)
    with whole_float32():
        return onednn_linear(values, weight, bias) if _takes_onednn() else F.linear(values, weight, bias)


def onednn_linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the product by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, 'none', [], '')


def _takes_onednn() -> bool:
    if torch.get_float32_matmul_precision() == 'medium':  # a program that lets PyTorch multiply in bfloat16 does not ask us to
        return onednn_multiplies()
    return product_library() == ONEDNN


@functools.cache
def product_library() -> str:
    """Return this process's library, 'torch' or 'onednn': the faster one, unless `PYIQA_RALI_PRODUCTS` names one.

    Raises:
        OptionError: the variable names an unknown library, or one that this build of PyTorch does not have.
    """
    asked = asked_library()
    if asked is not None or not onednn_multiplies():
        return asked or TORCH
    values, weight, bias = _operands()
    with torch.no_grad(), torch.autocast('cpu', enabled=False):
        return fastest('linear', {TORCH: lambda: F.linear(values, weight, bias),
                                  ONEDNN: lambda: onednn_linear(values, weight, bias)})


def asked_library() -> str | None:
    """Return the library that `PYIQA_RALI_PRODUCTS` names, for products and convolutions; None where it is not set.

    Raises:
        OptionError: the variable names another one, or one that this build of PyTorch does not have.
    """
    asked = os.environ.get(VARIABLE)
    if asked is not None and (asked not in (TORCH, ONEDNN) or (asked == ONEDNN and not onednn_multiplies())):
        raise OptionError(f'{VARIABLE}: "{asked}" must be {TORCH}, or {ONEDNN} where PyTorch has it. Unset it to let the '
                          'faster one be found.')
    return asked


@functools.cache
def bf16_speed() -> float:
    """Return how much faster a product in bfloat16 is than the best in float32 on this CPU; below 1 it is slower."""
    values, weight, bias = _operands()
    half = [each.bfloat16() for each in (values, weight, bias)]
    with torch.no_grad(), torch.autocast('cpu', enabled=False):
        found = times('linear in bf16', {BF16: lambda: F.linear(*half),
                                         product_library(): lambda: linear(values, weight, bias)})
    return found[product_library()] / found[BF16]


def _operands() -> tuple[Tensor, Tensor, Tensor]:
    """Return values, weight and bias of the raced product, the same whatever defaults a program has set."""
    options: dict[str, Any] = {'dtype': torch.float32, 'device': 'cpu', 'generator': torch.Generator().manual_seed(0)}
    return torch.randn(1, ROWS, WIDTH, **options), torch.randn(OUT, WIDTH, **options), torch.randn(OUT, **options)


@functools.cache
def onednn_multiplies() -> bool:
    """Whether this build of PyTorch has oneDNN's product in the form that is known here, with correct results."""
    if not torch.backends.mkldnn.is_available():
        return False
    options: dict[str, Any] = {'dtype': torch.float32, 'device': 'cpu'}
    values, weight = torch.linspace(-1, 1, 24, **options).view(1, 2, 12), torch.linspace(-1, 2, 36, **options).view(3, 12)
    bias = torch.ones(3, **options)
    try:
        found = onednn_linear(values, weight, bias)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.linear(values, weight, bias), atol=1e-5)
