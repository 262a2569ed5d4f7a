"""8-bit variants of exported models, by onnxruntime's quantization."""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.export.fitting import PREFIX
from pyiqa_rali.export.pictures import as_input

KEEP_FLOAT = 6  # rali-lite: the SRCC with float scores is .990 with 0, .998 with 3, .999 with 6, at about the same speed
STATIC_TYPES = ['Conv', 'Clip', 'Relu', 'Add']  # the last three belong to the convolutions that they follow
DYNAMIC_TYPES = ['MatMul', 'Gemm']


def quantisation_method(source: str | os.PathLike) -> str:
    """Return 'static' for a model whose weights are mostly those of convolutions, otherwise 'dynamic'.

    Static: the ranges of activations are measured on pictures beforehand. Dynamic: they are measured in every run, which suits
        the matrix products of transformers.
    """
    import onnx
    model = onnx.load(source)
    sizes = {item.name: int(np.prod(item.dims)) for item in model.graph.initializer}
    shares = {types[0]: sum(sizes.get(node.input[1], 0) for node in model.graph.node if node.op_type in types)
              for types in (STATIC_TYPES[:1], DYNAMIC_TYPES)}
    return 'static' if shares['Conv'] > shares['MatMul'] else 'dynamic'


def quantise(source: str | os.PathLike, target: str | os.PathLike, pictures: Iterable[np.ndarray] = (),
             keep_float: int = KEEP_FLOAT) -> dict[str, Any]:
    """Write the 8-bit variant of an exported model, atomically, with its metadata.

    Preprocessing, stage statistics, projection and scorer of a convolutional model stay in float, as do its first
    convolutions; in a transformer, products with weights are computed in 8 bits, except in the scorer.

    Args:
        source: the float model.
        target: the file to write.
        pictures: for a static one, uint8 (H, W, 3), on which the ranges are measured.
        keep_float: for a static one, how many of the first convolutions stay in float.

    Returns:
        'method', and for a static one 'calibration_pictures', 'float_convolutions' and 'convolutions'.

    Raises:
        OptionError: no convolution is left to quantise, or there are no pictures for a static one.
    """
    import onnx
    method = quantisation_method(source)
    with atomic_path(target) as temporary, _quiet():
        if method == 'static':
            note = _quantise_static(source, temporary, pictures, keep_float)
        else:
            note = _quantise_dynamic(source, temporary)
        model = onnx.load(temporary)
        describe(model, onnx.load(source, load_external_data=False), {'method': method, **note})
        onnx.save(model, temporary)
    return {'method': method, **note}


def describe(model: Any, source: Any, note: dict[str, Any]) -> None:
    """Give a quantised model the metadata of its source, and a note on how it was made."""
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    entry = model.metadata_props.add()
    entry.key, entry.value = 'int8', json.dumps(note)


def _quantise_static(source: str | os.PathLike, target: Path, pictures: Iterable[np.ndarray],
                     keep_float: int) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Returns one picture after the other."""

        def __init__(self):
            self.read = 0
            self.inputs: Iterator = iter(progress_bar(pictures, desc='calibrate', unit='picture'))

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.inputs, None)
            self.read += picture is not None
            return None if picture is None else {'images': as_input(picture)}

    model = onnx.load(source)
    excluded, count = first_convolutions(model, keep_float)
    if keep_float < 0 or keep_float >= count:
        raise OptionError(f'--keep-float: {keep_float} must be from 0 to {count - 1}: the model has {count} convolutions.')
    reader = Reader()
    quantize_static(model, target, reader, op_types_to_quantize=STATIC_TYPES, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    nodes_to_exclude=[*excluded, *outside_the_backbone(model)])
    return {'calibration_pictures': reader.read, 'float_convolutions': keep_float, 'convolutions': count}


def _quantise_dynamic(source: str | os.PathLike, target: Path) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    model = onnx.load(source)
    quantize_dynamic(source, target, op_types_to_quantize=DYNAMIC_TYPES, per_channel=True, weight_type=QuantType.QInt8,
                     nodes_to_exclude=outside_the_backbone(model))
    return {}


def first_convolutions(model: Any, count: int) -> tuple[list[str], int]:
    """Return the names of the first convolutions and of the nodes that clip their outputs, and the number of convolutions."""
    convolutions = [node for node in model.graph.node if node.op_type == 'Conv']
    first = convolutions[:max(count, 0)]
    outputs = {node.output[0] for node in first}
    clips = [node.name for node in model.graph.node if node.op_type in ('Clip', 'Relu') and
             node.input[0] in outputs]
    return [node.name for node in first] + clips, len(convolutions)


def outside_the_backbone(model: Any) -> list[str]:
    """Return the names of the nodes of the preprocessing and of those that lead from the scorer's tensors to the score."""
    names = [node.name for node in model.graph.node if node.name.startswith(PREFIX)]
    reached = {item.name for item in model.graph.initializer if item.name.startswith('scorer.')}
    for node in model.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime's advice to preprocess models, which does not apply here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
