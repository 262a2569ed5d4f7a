"""Batch norms folded into the convolutions before them, for scoring: one pass less over every feature map.

In evaluation a batch norm is y = g (x - m) / s + b for each channel. With the convolution before it, it is one convolution
with weights times g / s and another bias. The modules keep their own weights under their names, so that state dicts,
exports and digests are those of the network that was trained; the folded weights are kept beside them, as buffers that no
state dict contains.
"""

import copy
import functools
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, nn

from pyiqa_rali.model.convolutions import (
    ACTIVATIONS,
    OneDnnConvolution,
    activated,
    is_elsewhere,
    onednn_convolves,
    same_padding,
)
from pyiqa_rali.model.products import ONEDNN, TORCH, asked_library
from pyiqa_rali.model.race import fastest

LARGEST_ERROR = 1e-4  # of the features' largest value
TRIED_SIZE, RACED_SIZE = 64, 256  # pixels, where a backbone takes any size


class _Folded(nn.Conv2d):
    """A convolution with the batch norm after it, and that one's activation where `ACTIVATIONS` has it.

    Attributes:
        activation: a value of `ACTIVATIONS`.
        direct: whether oneDNN is asked for the convolution, where it can be.
        onednn: its convolution.
    """

    folded_weight: Tensor
    folded_bias: Tensor
    activation: str
    direct: bool
    onednn: OneDnnConvolution

    def _by_onednn(self, images: Tensor, padding: tuple[int, ...], leading: tuple[int, int] = (0, 0)) -> Tensor:
        return self.onednn(images, self.folded_weight, self.folded_bias, self.stride, padding, self.dilation, self.groups,
                           self.activation, leading)


class FoldedConv2d(_Folded):
    """A convolution with the batch norm after it."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised feature maps."""
        if self.direct and not isinstance(self.padding, str) and self.padding_mode == 'zeros' and not is_elsewhere(images):
            return self._by_onednn(images, self.padding)
        return activated(self._conv_forward(images, self.folded_weight, self.folded_bias), self.activation)


class FoldedConv2dSame(_Folded, Conv2dSame):
    """A convolution that pads as TensorFlow does, with the batch norm after it."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised feature maps."""
        if self.direct and max(self.dilation) == 1 and not is_elsewhere(images):
            (top, above), (left, before) = (same_padding(length, kernel, stride) for length, kernel, stride in
                                            zip(images.shape[-2:], self.kernel_size, self.stride, strict=True))
            return self._by_onednn(images, (top, left), (above, before))
        maps = conv2d_same(images, self.folded_weight, self.folded_bias, self.stride, self.padding, self.dilation, self.groups)
        return activated(maps, self.activation)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that the convolution before it has applied."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature maps as they come."""
        return images


class FoldedBatchNormAct2d(BatchNormAct2d):
    """A batch norm that the convolution before it has applied, and its activation."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the activated feature maps."""
        return self.act(self.drop(images))


class ActivatedBatchNormAct2d(BatchNormAct2d):
    """A batch norm that the convolution before it has done, with the activation."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature maps as they come."""
        return images


FOLDED = {nn.Conv2d: FoldedConv2d, Conv2dSame: FoldedConv2dSame, nn.BatchNorm2d: FoldedBatchNorm2d,
          BatchNormAct2d: FoldedBatchNormAct2d}
PLAIN = {**{folded: plain for plain, folded in FOLDED.items()}, ActivatedBatchNormAct2d: BatchNormAct2d}
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)
BUFFERS, ATTRIBUTES = ('folded_weight', 'folded_bias'), ('activation', 'direct', 'onednn')


@torch.no_grad()
def fold(backbone: nn.Module, size: int | None) -> bool:
    """Fold what can be folded, if the features stay the same.

    Args:
        backbone: in evaluation mode, in float32.
        size: of the pictures that it takes, in pixels; None for any.

    Returns:
        Whether something was folded.
    """
    if not any(type(module) in NORMS for module in backbone.modules()):
        return False
    weight = next(backbone.parameters())
    picture = torch.linspace(-2, 2, 3 * (size or TRIED_SIZE) ** 2, device=weight.device, dtype=torch.float32)
    picture = picture.sin().view(1, 3, size or TRIED_SIZE, size or TRIED_SIZE).to(weight.dtype)
    pairs, expected = _pairs(backbone, picture)
    for convolution, norm in pairs:
        _fold_pair(convolution, norm)
    if pairs and not (backbone(picture) - expected).abs().max() <= LARGEST_ERROR * expected.abs().max():
        unfold(backbone)  # a convolution's output is used elsewhere too, or values are not finite
        return False
    return bool(pairs)


def unfold(backbone: nn.Module) -> None:
    """Let convolutions and batch norms compute with their own weights again."""
    for module in backbone.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
            for name in BUFFERS:
                module._buffers.pop(name, None)
                module._non_persistent_buffers_set.discard(name)
            for name in ATTRIBUTES:
                vars(module).pop(name, None)


def is_folded(backbone: nn.Module) -> bool:
    """Whether something is folded."""
    return any(type(module) in PLAIN for module in backbone.modules())


def choose_library(backbone: nn.Module, name: str, size: int | None) -> None:
    """Let the folded convolutions of a backbone be computed as is faster on this machine, with as many threads as there are.

    Args:
        backbone: on the CPU, in float32.
        name: of the encoder, for the race's memory.
        size: of the pictures that it takes, in pixels; None for any.
    """
    library = asked_library() or (_faster_library(backbone, name, size or RACED_SIZE) if onednn_convolves() else TORCH)
    take_library(backbone, library)


def take_library(backbone: nn.Module, library: str) -> None:
    """Let the folded convolutions of a backbone be PyTorch's choice (`TORCH`) or, where possible, oneDNN's (`ONEDNN`)."""
    for module in backbone.modules():
        if isinstance(module, _Folded):
            module.direct = library == ONEDNN and onednn_convolves()


def library_of(backbone: nn.Module) -> str:
    """Return which library `take_library` has set."""
    return ONEDNN if any(isinstance(module, _Folded) and module.direct for module in backbone.modules()) else TORCH


@torch.no_grad()
def _faster_library(backbone: nn.Module, name: str, size: int) -> str:
    options: dict[str, Any] = {'dtype': torch.float32, 'device': 'cpu'}
    picture = torch.linspace(-2, 2, 3 * size * size, **options).sin().view(1, 3, size, size)
    picture = picture.contiguous(memory_format=torch.channels_last)

    @functools.cache
    def copied(library: str) -> nn.Module:
        other = copy.deepcopy(backbone)  # the backbone itself may be computing in other threads
        take_library(other, library)
        return other

    def features(library: str) -> Tensor:
        return copied(library)(picture)

    with torch.autocast('cpu', enabled=False):
        return fastest(f'convolutions of {name}', {library: functools.partial(features, library)
                                                   for library in (TORCH, ONEDNN)})


def unfolded(backbone: nn.Module) -> nn.Module:
    """Return the backbone, or, where something is folded, a copy in which nothing is."""
    if is_folded(backbone):
        backbone = copy.deepcopy(backbone)
        unfold(backbone)
    return backbone


def state_of(backbone: nn.Module) -> tuple[tuple[int, bool], ...]:
    """Return what changes when a weight is written to or requires a gradient, which makes folded weights invalid."""
    tensors = [tensor for module in backbone.modules() if type(module) in PLAIN for tensor in (
        *module._parameters.values(), module._buffers.get('running_mean'), module._buffers.get('running_var'))]
    return tuple((0 if tensor.is_inference() else tensor._version, tensor.requires_grad) for tensor in tensors
                 if tensor is not None)


def _pairs(backbone: nn.Module, picture: Tensor) -> tuple[list[tuple[nn.Module, nn.Module]], Tensor]:
    """Return each convolution whose output a batch norm takes, with that batch norm, and the picture's features.

    Modules that run more than once are left out.
    """
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []
    runs: dict[nn.Module, int] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        if type(module) in CONVOLUTIONS:
            outputs[id(output)] = (module, output)  # the tensor is kept, so that no other one gets its id
        elif id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(look) for module in backbone.modules() if type(module) in (*CONVOLUTIONS, *NORMS)]
    try:
        features = backbone(picture)
    finally:
        for hook in hooks:
            hook.remove()
    taken = [convolution for convolution, _ in pairs]
    return [(convolution, norm) for convolution, norm in pairs
            if runs[convolution] == runs[norm] == 1 and taken.count(convolution) == 1 and norm.running_mean is not None
            and not norm.training], features


def _fold_pair(convolution: Any, norm: Any) -> None:
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double()
    if convolution.bias is not None:
        bias = bias + convolution.bias.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = (convolution.weight.double() * scale.view(-1, 1, 1, 1)).to(convolution.weight.dtype)
    fused = type(norm) is BatchNormAct2d and type(norm.drop) is nn.Identity and type(norm.act) in ACTIVATIONS
    convolution.activation = ACTIVATIONS[type(norm.act)] if fused else ''
    convolution.direct, convolution.onednn = False, OneDnnConvolution()
    convolution.__class__, norm.__class__ = FOLDED[type(convolution)], ActivatedBatchNormAct2d if fused else FOLDED[type(norm)]
    convolution.register_buffer('folded_weight', weight, persistent=False)
    convolution.register_buffer('folded_bias', bias.to(convolution.weight.dtype), persistent=False)
