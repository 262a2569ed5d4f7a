"""What follows the preparation of pictures, from prepared pictures to scores, as an ONNX network."""

import copy
import importlib.util
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError

NEEDED = ('onnx', 'onnx_ir', 'onnxscript', 'onnxruntime')
OPSETS = (18, 19, 20, 21, 22)
DEFAULT_OPSET = 20
LARGEST_FILE = 2 ** 31 - 2 ** 20  # protobuf's limit, less a megabyte for the graph
INPUT, OUTPUT, FEATURES = 'images', 'score', 'image_features'


class ScoringNetwork(nn.Module):
    """Backbone, projection and scorer.

    Args:
        net: the `RALI`; its modules are used, not copied, unless something in them has to be replaced.

    Attributes:
        outputs: names of what `forward` returns.
    """

    outputs: tuple[str, ...] = (OUTPUT, FEATURES)

    def __init__(self, net: Any):
        super().__init__()
        from pyiqa_rali.model.folding import unfolded
        encoder = net.image_encoder
        self.backbone, self.padded_same = with_plain_padding(unfolded(encoder.backbone))
        self.projection, self.scorer = encoder.projection, net.scorer

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        """Return scores (N, 1) and image features (N, C) for prepared pictures (N, 3, h, w)."""
        features = self.projection(self.backbone(prepared))
        return self.scorer(features), features


def with_plain_padding(backbone: nn.Module) -> tuple[nn.Module, set[str]]:
    """Return a backbone without timm's `Conv2dSame`, and the names of the weights of those that it had.

    That convolution computes its padding from the size of the picture, in nested fractions that take torch.export minutes. ONNX
    has an attribute for it. A convolution with the same shape of output stands in until `use_same_padding` sets the attribute.
    """
    from timm.layers import Conv2dSame
    if not any(isinstance(module, Conv2dSame) for module in backbone.modules()):
        return backbone, set()
    backbone = copy.deepcopy(backbone)
    names = set()
    for name, module in backbone.named_modules():
        if isinstance(module, Conv2dSame) and all(size % 2 for size in module.kernel_size):
            module.__class__ = nn.Conv2d
            module.padding = tuple(dilation * (size // 2) for size, dilation in zip(module.kernel_size, module.dilation,
                                                                                  strict=True))
            names.add(f'backbone.{name}.weight')
    return backbone, names


def use_same_padding(model, weights: set[str]) -> None:
    """Let the convolutions with these weights pad as `Conv2dSame` does."""
    import onnx_ir as ir
    for node in model.graph:
        if node.op_type == 'Conv' and node.inputs[1].name in weights:
            node.attributes.pop('pads', None)
            node.attributes['auto_pad'] = ir.AttrString('auto_pad', 'SAME_UPPER')


def require_onnx(option: str) -> None:
    """Raise OptionError, which names the option, when one of the packages of the extra `onnx` is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f'{option}: needs {", ".join(missing)}. Install what is missing: pip install "pyiqa-rali[onnx]".')


def check_size(net: nn.Module, option: str) -> None:
    """Raise OptionError, which names the option, for weights that do not fit one ONNX file."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))
    if size > LARGEST_FILE:
        raise OptionError(f'{option}: the weights take {size / 2 ** 30:.1f} GB; an ONNX file holds at most 2 GB.')


def exported(network: ScoringNetwork, size: int | None, opset: int = DEFAULT_OPSET) -> Any:
    """Return a network as an `onnx_ir.Model`.

    Args:
        network: in evaluation mode, on the CPU in float32.
        size: of the pictures that it takes, in pixels; None leaves height and width free.
        opset: version of ONNX's operators.
    """
    free = torch.export.Dim.DYNAMIC
    axes = {0: free} if size else {0: free, 2: free, 3: free}
    example = torch.rand(2, 3, size or 97, size or 130)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its remarks on versions of onnxscript and decompositions
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=(axes,), opset_version=opset,
                                        input_names=[INPUT], output_names=list(network.outputs), verbose=False)
    finally:
        logging.disable(before)
    if program is None:
        raise OptionError('export-onnx: torch.onnx.export returned no program; this version of torch cannot export the '
                          'encoder.')
    use_same_padding(program.model, network.padded_same)
    return program.model
