"""A RALI net as an ONNX model: pictures of any size in, scores out, preprocessing included."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pyiqa_rali import __version__
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.model.interval import COVERAGE, NO_INTERVAL
from pyiqa_rali.model.onnx.network import (
    DEFAULT_OPSET,
    INPUT,
    NEEDED,
    OPSETS,
    OUTPUT,
    ScoringNetwork,
    check_size,
    exported,
    require_onnx,
)
from pyiqa_rali.model.rali import RALI


class FittedScorer(ScoringNetwork):
    """What follows the resizing: normalisation, backbone, projection and scorer.

    Args:
        net: the metric; its modules are used, not copied, unless a convolution has to be replaced.
        coverage: of the intervals, above 0 and below 1; None leaves them out.

    Raises:
        CheckpointError: the checkpoint has no interval, or one for another scorer.
        OptionError: too few images were calibrated on for this coverage.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: RALI, coverage: float | None = None):
        super().__init__(net)
        self.interval, self.coverage = None if coverage is None else net.interval, coverage or COVERAGE
        if coverage is not None:
            if net.interval is None:
                raise CheckpointError(NO_INTERVAL)
            net.interval.check_scorer(net.scorer)
            net.interval.quantile(coverage)
        self.outputs = (OUTPUT,) if self.interval is None else (OUTPUT, 'low', 'high', 'unlike')
        self.register_buffer('mean', net.image_encoder.preprocess.mean.float())
        self.register_buffer('std', net.image_encoder.preprocess.std.float())

    def forward(self, fitted: Tensor) -> tuple[Tensor, ...]:
        """Return scores (N, 1) for pictures (N, 3, h, w) in [0, 1] of the encoder's size.

        With intervals, also low, high and unlike (N, 1), the last 1 or 0.
        """
        scores, features = super().forward((fitted - self.mean) / self.std)
        if self.interval is None:
            return (scores,)
        found = self.interval.around(self.scorer, features, scores, self.coverage)
        return scores, found.low, found.high, found.unlike.to(scores.dtype)


def check_opset(opset: int) -> None:
    """Raise OptionError for an opset that has not been tried."""
    if opset not in OPSETS:
        raise OptionError(f'--opset: {opset} is not one of {", ".join(map(str, OPSETS))}.')


def onnx_model(net: RALI, opset: int = DEFAULT_OPSET, coverage: float | None = None):
    """Return a net as an `onnx_ir.Model`.

    Its input 'images' is float32 (N, 3, H, W) in [0, 1], RGB, both edges at least 16 pixels; its output 'score' is
    float32 (N, 1). N, H and W are free.

    Args:
        net: the metric, on the CPU in float32.
        opset: version of ONNX's operators.
        coverage: also put out 'low', 'high' and 'unlike' of intervals that hold this share of the MOS; None does not.

    Raises:
        CheckpointError: the checkpoint has no interval.
        OptionError: packages are missing, the opset is not known, or the weights do not fit one file.
    """
    require_onnx('export-onnx')
    check_opset(opset)
    check_size(net, 'export-onnx')
    model = exported(FittedScorer(net, coverage).eval(), net.image_encoder.config.preprocessing.image_size, opset)
    _put_preprocessing_first(model, net)
    _describe(model, net)
    return model


def save_model(path: str | os.PathLike, model, check: Callable[[Path], Any] = lambda path: None) -> Any:
    """Write a model as one file, atomically, and return what `check` says of it.

    Args:
        path: the file; an existing one stays until the new one has passed the check.
        model: what `onnx_model` returned.
        check: called with the written file before it takes its place; if it raises, the file is discarded.
    """
    import onnx_ir as ir
    with atomic_path(path) as temporary:
        ir.save(model, temporary)
        return check(temporary)


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
    for output in graph.outputs:
        output.shape = ir.Shape(['N', 1])


def _describe(model, net: RALI) -> None:
    """Replace the exporter's notes (which include paths of this machine) with what the checkpoint says about itself."""
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
