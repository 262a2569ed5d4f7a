"""Convolutions on CPUs by oneDNN itself, where that is faster than the choice that PyTorch makes for each of them.

With one thread PyTorch multiplies matrices of unfolded pictures for kernels of one pixel, and for small ones it may do so too.
oneDNN computes them in place of that, applies the activation while the values are at hand, and keeps weights in the order that
it reads them in. What TensorFlow pads ('same') is not copied either: where one more row or column is needed below or to the
right than above or to the left, the kernel gets a first row or column of zeros, and the padding is as wide on both sides.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[type[nn.Module], str] = {nn.Identity: '', nn.ReLU: 'relu', nn.ReLU6: 'relu6'}
FUSED: dict[str, tuple[str, list[float]]] = {'': ('none', []), 'relu': ('relu', []), 'relu6': ('hardtanh', [0.0, 6.0])}


def activated(maps: Tensor, activation: str) -> Tensor:
    """Return the activation of feature maps that nothing else uses; one of the values of `ACTIVATIONS`."""
    if activation == 'relu':
        return F.relu_(maps)
    return F.relu6(maps, inplace=True) if activation == 'relu6' else maps


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding of an axis on each side, and how many zeros the kernel needs in front, to pad as TensorFlow does."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return (total + 1) // 2, total % 2


class OneDnnConvolution:
    """oneDNN's convolution of one layer, which keeps the weights in the order that oneDNN reads them in.

    That order depends on the size of the feature maps, and weights in the order of another size take twice as long as those in
    PyTorch's own. So they are kept for the last size only, once it has come twice. Copies and pickles do not contain them.
    """

    def __init__(self) -> None:
        # the weights and the size of the feature maps that they are kept for, and the weights in oneDNN's order
        self._kept: tuple[Tensor | None, tuple[int, ...], Tensor | None] = (None, (), None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept weights out."""
        return {'_kept': (None, (), None)}

    def __call__(self, images: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], padding: tuple[int, ...],
                 dilation: tuple[int, ...], groups: int, activation: str, leading: tuple[int, int] = (0, 0)) -> Tensor:
        """Return the activated convolution.

        Args:
            images: (N, C, H, W), float32, on the CPU; as all others, without a gradient.
            weight: of the layer; compared by its identity, since what is folded is never written to.
            bias: of the layer.
            stride: of rows and columns.
            padding: of rows and columns, on both sides.
            dilation: of rows and columns; 1 where there are leading zeros.
            groups: of the channels.
            activation: a value of `ACTIVATIONS`.
            leading: rows and columns of zeros before the kernel's own.
        """
        (of, size, ordered), now = self._kept, tuple(images.shape)
        if of is not weight or size != now:
            kernel = _with_leading_zeros(weight, leading)
            self._kept = (weight, now, None)
        elif ordered is None:
            kernel = torch.ops.mkldnn._reorder_convolution_weight(_with_leading_zeros(weight, leading), padding, stride,
                                                                  dilation, groups, now)
            self._kept = (weight, now, kernel)
        else:
            kernel = ordered
        name, numbers = FUSED[activation]
        return torch.ops.mkldnn._convolution_pointwise(images, kernel, bias, padding, stride, dilation, groups, name, numbers,
                                                       '')


def _with_leading_zeros(weight: Tensor, leading: tuple[int, int]) -> Tensor:
    rows, columns = leading
    padded = F.pad(weight, (columns, 0, rows, 0)) if rows or columns else weight
    return padded.contiguous(memory_format=torch.channels_last)


def is_elsewhere(images: Tensor) -> bool:
    """Whether oneDNN's convolution has no place: on other devices and types, with gradients, and in graphs."""
    return (images.device.type != 'cpu' or images.dtype != torch.float32
            or (torch.is_grad_enabled() and images.requires_grad)
            or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export())


@functools.cache
@torch.no_grad()
def onednn_convolves() -> bool:
    """Whether this build of PyTorch has oneDNN's convolution in the form that is known here, and it is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    options: dict[str, Any] = {'dtype': torch.float32, 'device': 'cpu'}
    with torch.inference_mode(False), torch.autocast('cpu', enabled=False):
        images = torch.linspace(-1, 1, 2 * 4 * 9 * 8, **options).sin().view(2, 4, 9, 8).contiguous(
            memory_format=torch.channels_last)
        bias = torch.linspace(-1, 1, 4, **options)
        for groups in (1, 4):
            weight = torch.linspace(-3, 3, 4 * (4 // groups) * 9, **options).cos().view(4, 4 // groups, 3, 3)
            for activation in FUSED:
                convolution = OneDnnConvolution()
                expected = activated(F.conv2d(images, F.pad(weight, (1, 0)), bias, 2, 1, 1, groups), activation)
                for _ in range(3):  # with PyTorch's order of the weights, and twice with oneDNN's
                    try:
                        found = convolution(images, weight, bias, (2, 2), (1, 1), (1, 1), groups, activation, (0, 1))
                    except (AttributeError, RuntimeError, TypeError):
                        return False
                    if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-5):
                        return False
    return True
