"""A RALI net as an ONNX model: pictures of any size in, scores out, preprocessing included."""

import copy
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyiqa_rali import __version__
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.model.rali import RALI

NEEDED = ('onnx', 'onnx_ir', 'onnxscript', 'onnxruntime')
OPSETS = (18, 19, 20, 21, 22)
DEFAULT_OPSET = 20
LARGEST_FILE = 2 ** 31 - 2 ** 20  # protobuf's limit, less a megabyte for the graph
INPUT, OUTPUT = 'images', 'score'


class FittedScorer(nn.Module):
    """What follows the resizing: normalisation, backbone, projection and scorer.

    Args:
        net: the metric; its modules are used, not copied, unless a convolution has to be exchanged.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: RALI):
        from pyiqa_rali.model.folding import unfolded
        super().__init__()
        encoder = net.image_encoder
        self.register_buffer('mean', encoder.preprocess.mean.float())
        self.register_buffer('std', encoder.preprocess.std.float())
        self.backbone, self.padded_same = with_plain_padding(unfolded(encoder.backbone))
        self.projection, self.scorer = encoder.projection, net.scorer

    def forward(self, fitted: Tensor) -> Tensor:
        """Return scores (N, 1) for pictures (N, 3, h, w) in [0, 1] of the encoder's size."""
        return self.scorer(self.projection(self.backbone((fitted - self.mean) / self.std)))


def with_plain_padding(backbone: nn.Module) -> tuple[nn.Module, set[str]]:
    """Return a backbone without timm's `Conv2dSame`, and the names of the weights of those that it had.

    That convolution computes its padding from the size of the picture, in nested fractions that are minutes of work for
    torch.export. ONNX has an attribute for it. A convolution with the same shape of output stands in until
    `use_same_padding` sets the attribute.
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


def require_onnx() -> None:
    """Raise OptionError when one of the packages of the extra `onnx` is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f'export-onnx: needs {", ".join(missing)}. Install what is missing: pip install "pyiqa-rali[onnx]".')


def check_opset(opset: int) -> None:
    """Raise OptionError for an opset that has not been tried."""
    if opset not in OPSETS:
        raise OptionError(f'--opset: {opset} is not one of {", ".join(map(str, OPSETS))}.')


def onnx_model(net: RALI, opset: int = DEFAULT_OPSET):
    """Return a net as an `onnx_ir.Model`.

    Its input 'images' is float32 (N, 3, H, W) in [0, 1], RGB, both edges of 16 pixels at least; its output 'score' is
    float32 (N, 1). N, H and W are free.

    Args:
        net: the metric, on the CPU in float32.
        opset: version of ONNX's operators.

    Raises:
        OptionError: packages are missing, the opset is not known, or the weights do not fit one file.
    """
    require_onnx()
    check_opset(opset)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))
    if size > LARGEST_FILE:
        raise OptionError(f'export-onnx: the weights take {size / 2 ** 30:.1f} GB; an ONNX file holds 2 GB at most.')
    fitted = FittedScorer(net).eval()
    model = _exported(fitted, net.image_encoder.config.preprocessing.image_size, opset)
    use_same_padding(model, fitted.padded_same)
    _put_preprocessing_first(model, net)
    _describe(model, net)
    return model


def save_model(path: str | os.PathLike, model, check: Callable[[Path], Any] = lambda path: None) -> Any:
    """Write a model as one file, atomically, and return what `check` says of it.

    Args:
        path: the file; where one is there already, it stays until the new one has passed.
        model: what `onnx_model` returned.
        check: is given the written file before it takes its place; what it raises keeps it from doing so.
    """
    import onnx_ir as ir
    with atomic_path(path) as temporary:
        ir.save(model, temporary)
        return check(temporary)


def _exported(fitted: FittedScorer, size: int | None, opset: int):
    """Return the exported network on fitted pictures; without a size, height and width are free."""
    free = torch.export.Dim.DYNAMIC
    axes = {0: free} if size else {0: free, 2: free, 3: free}
    example = torch.rand(2, 3, size or 97, size or 130)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its notes on versions of onnxscript and decompositions
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(fitted, (example,), dynamo=True, dynamic_shapes=(axes,), opset_version=opset,
                                        input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    finally:
        logging.disable(before)
    if program is None:
        raise OptionError('export-onnx: torch.onnx.export gave no program; this version of torch cannot export the encoder.')
    return program.model


def _put_preprocessing_first(model, net: RALI) -> None:
    import onnx_ir as ir

    from pyiqa_rali.export.fitting import Nodes, add_fitting
    graph = model.graph
    fitted = graph.inputs[0]
    images = ir.Value(name=INPUT, shape=ir.Shape(['N', 3, 'H', 'W']), type=ir.TensorType(ir.DataType.FLOAT))
    nodes = Nodes()
    output = add_fitting(nodes, images, net.image_encoder.config.preprocessing)
    ir.convenience.replace_all_uses_with(fitted, output)
    graph.inputs[0] = images
    if nodes.nodes:
        output.type, output.shape = fitted.type, fitted.shape
        graph.insert_before(next(iter(graph)), nodes.nodes)
    graph.outputs[0].shape = ir.Shape(['N', 1])


def _describe(model, net: RALI) -> None:
    """Replace what the exporter noted (paths of this machine among it) by what the checkpoint says about itself."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        values += node.outputs
        node.metadata_props.clear()
        node.doc_string = None
    for value in values:
        value.metadata_props.clear()
    model.producer_name, model.producer_version, model.graph.name = 'pyiqa-rali', __version__, 'RALI'
    metadata = net.metadata
    low, high = metadata['mos_range']
    model.metadata_props.update({
        'name': str(metadata.get('name', 'RALI')), 'mos_range': f'{low:g}, {high:g}', 'score_range': net.score_range,
        'lower_better': json.dumps(metadata['lower_better']), 'licence': str(metadata.get('licence', 'not stated')),
        'input': f'{INPUT}: float32 (N, 3, H, W), RGB in [0, 1], both edges of 16 pixels at least',
        'versions': json.dumps({'pyiqa-rali': __version__, **_package_versions()}), 'pyiqa_rali': json.dumps(metadata)})


def _package_versions() -> dict[str, str]:
    from importlib.metadata import version
    return {name: version(name) for name in ('torch', *NEEDED)}
