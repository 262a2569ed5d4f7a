"""The preprocessing of `model.preprocessing` as ONNX nodes: any picture size, exact Pillow-like resizing, one file.

The Resize operator of ONNX is not used: runtimes differ in how they antialias and round its scales. A pass along one axis is
a product with the matrix of its weights, which nodes compute from the sizes; the matrix has a narrow band, so that it is
multiplied in blocks of rows.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from pyiqa_rali.model.preprocessing import MIN_SIZE, Preprocessing

BLOCK = 32  # rows that one block of the matrix makes: larger blocks multiply more zeros, smaller ones copy more rows
SUPPORTS = {'bicubic': 2.0, 'bilinear': 1.0}
PREFIX = 'preprocess/'


class Nodes(ir.tape.Tape):
    """A recorder of nodes whose names start with `PREFIX`, with numbers as inputs.

    Args:
        count: numbers the names; branches share it with the graph that contains them, in which names must be unique.
    """

    def __init__(self, count: Iterator[int] | None = None):
        super().__init__()
        self.count = count or itertools.count()

    def __call__(self, op_type: str, *inputs: ir.Value | int | float | list | None, **attributes) -> ir.Value:
        """Add a node and return its output; Python numbers become constants, floats in double precision."""
        values = [self.constant(item) if isinstance(item, int | float | list) else item for item in inputs]
        return self.op(op_type, values, attributes)

    def op(self, op_type, inputs, attributes=None, **options):
        """Add a node with a name from here (see `onnx_ir.tape.Tape.op`)."""
        output = super().op(op_type, inputs, attributes, **options)
        output.name = output.producer().name = f'{PREFIX}{op_type}_{next(self.count)}'
        return output

    def constant(self, value: int | float | list) -> ir.Value:
        """Return a constant: int64 for integers, otherwise double."""
        array = np.array(value)
        array = array.astype(np.int64 if array.dtype.kind == 'i' else np.float64)
        return self.op('Constant', [], {'value': ir.tensor(array)})

    def length(self, images: ir.Value, axis: int) -> ir.Value:
        """Return the length () of an axis."""
        return self('Gather', self('Shape', images), axis)

    def double(self, value: ir.Value) -> ir.Value:
        """Return the value in double precision."""
        return self('Cast', value, to=ir.DataType.DOUBLE)

    def when(self, condition: ir.Value, value: ir.Value, change) -> ir.Value:
        """Return `change(nodes, value)` where the condition () holds, otherwise the value itself."""
        branches = {}
        for name, work in (('then_branch', change), ('else_branch', lambda nodes, same: nodes('Identity', same))):
            nodes = Nodes(self.count)
            output = work(nodes, value)
            output.type = ir.TensorType(ir.DataType.FLOAT)
            branches[name] = ir.Graph([], [output], nodes=nodes.nodes, name=f'{PREFIX}{name}')
        return self('If', condition, **branches)


def add_fitting(nodes: Nodes, images: ir.Value, preprocessing: Preprocessing) -> ir.Value:
    """Add what brings (N, 3, H, W) float32 pictures in [0, 1] to the encoder's size, and return its output.

    The same as `model.preprocessing.fit_to_encoder`, except for pixels exactly between two of 256 levels (which occur where a
    factor of 2 meets 8-bit pixels): in both, the last bit of a sum then decides between the two.
    """
    target = preprocessing.resize_size or preprocessing.image_size
    if target is None:
        return images
    size = preprocessing.image_size
    height, width = resized_shape(nodes, images, target, preprocessing.resize_mode)
    if preprocessing.resize_mode == 'squash':  # height first where the picture becomes lower and wider at once
        lower = nodes('Less', height, nodes.length(images, 2))
        wider = nodes('Greater', width, nodes.length(images, 3))
        first = nodes('Where', nodes('And', lower, wider), height, nodes.length(images, 2))
        images = resize_height(nodes, images, first, preprocessing.interpolation)
    images = resize_width(nodes, images, width, preprocessing.interpolation)
    images = resize_height(nodes, images, height, preprocessing.interpolation)
    if size is None or (preprocessing.resize_mode == 'squash' and size == target):
        return images
    if preprocessing.resize_mode == 'longest' or target < size:
        images = pad_to(nodes, images, size)
    return center_crop(nodes, images, size, preprocessing.crop_rounding)


def resized_shape(nodes: Nodes, images: ir.Value, target: int, resize_mode: str) -> tuple[ir.Value, ir.Value]:
    """Return height () and width () after resizing, as `model.preprocessing.resized_shape` does."""
    height, width = nodes.length(images, 2), nodes.length(images, 3)
    if resize_mode == 'squash':
        return nodes.constant(target), nodes.constant(target)
    longest = nodes('Max', height, width)
    if resize_mode == 'longest':
        ratio = nodes('Div', nodes.double(longest), float(target))
        return tuple(nodes('Max', nodes('Cast', nodes('Round', nodes('Div', nodes.double(edge), ratio)),
                                        to=ir.DataType.INT64), 1) for edge in (height, width))
    if resize_mode == 'native':
        shown = nodes('Min', longest, target)
        return tuple(nodes('Max', nodes('Div', nodes('Mul', edge, shown), longest), MIN_SIZE) for edge in (height, width))
    return tuple(nodes('Max', nodes('Div', nodes('Mul', edge, target), other), target)
                 for edge, other in ((height, width), (width, height)))


def resize_width(nodes: Nodes, images: ir.Value, width: ir.Value, interpolation: str) -> ir.Value:
    """Resize (N, 3, H, W) to a width (); a picture of that width stays as it is, without rounding."""
    def change(inner: Nodes, value: ir.Value) -> ir.Value:
        turned = inner('Transpose', value, perm=[0, 1, 3, 2])
        return inner('Transpose', resized_rows(inner, turned, width, interpolation), perm=[0, 1, 3, 2])
    return nodes.when(nodes('Not', nodes('Equal', nodes.length(images, 3), width)), images, change)


def resize_height(nodes: Nodes, images: ir.Value, height: ir.Value, interpolation: str) -> ir.Value:
    """Resize (N, 3, H, W) to a height (); a picture of that height stays as it is, without rounding."""
    def change(inner: Nodes, value: ir.Value) -> ir.Value:
        return resized_rows(inner, value, height, interpolation)
    return nodes.when(nodes('Not', nodes('Equal', nodes.length(images, 2), height)), images, change)


def resized_rows(nodes: Nodes, images: ir.Value, new: ir.Value, interpolation: str) -> ir.Value:
    """Return (N, 3, new, W) for (N, 3, H, W), clipped to [0, 1] and rounded to 8 bits."""
    old = nodes.length(images, 2)
    rows, weights = block_weights(nodes, old, new, SUPPORTS[interpolation], interpolation)
    taken = nodes('Gather', images, rows, axis=2)  # (N, 3, blocks, L, W)
    # in double precision, as in model.preprocessing: float32 would occasionally round to the other side
    resized = nodes('MatMul', weights, nodes.double(taken))
    shape = nodes('Shape', images)
    joined = nodes('Reshape', resized, nodes('Concat', nodes('Slice', shape, [0], [2]), [-1], nodes('Slice', shape, [3], [4]),
                                             axis=0))
    kept = nodes('Slice', joined, [0], nodes('Unsqueeze', new, [0]), [2])
    levels = nodes('Floor', nodes('Add', nodes('Mul', nodes('Clip', kept, 0.0, 1.0), 255.0), 0.5))
    return nodes('Cast', nodes('Div', levels, 255.0), to=ir.DataType.FLOAT)


def block_weights(nodes: Nodes, old: ir.Value, new: ir.Value, support: float,
                  interpolation: str) -> tuple[ir.Value, ir.Value]:
    """Return which rows each block of output rows takes, and their weights in double precision.

    Args:
        nodes: where the nodes are added.
        old: length () of the axis before.
        new: length () after.
        support: reach of the kernel, in pixels of the smaller picture.
        interpolation: 'bicubic' or 'bilinear'.

    Returns:
        Row numbers (blocks, L), int64, in [0, old); weights (blocks, BLOCK, L), whose rows sum to 1.
    """
    scale = nodes('Div', nodes.double(old), nodes.double(new))
    stretch = nodes('Max', scale, 1.0)
    reach = nodes('Mul', stretch, support)
    blocks = nodes('Div', nodes('Add', new, BLOCK - 1), BLOCK)
    first = nodes('Mul', nodes('Range', 0, blocks, 1), BLOCK)  # (blocks,)
    made = nodes('Min', nodes('Add', nodes('Unsqueeze', first, [1]), list(range(BLOCK))), nodes('Sub', new, 1))
    centers = nodes('Mul', nodes('Add', nodes.double(made), 0.5), scale)  # (blocks, BLOCK)
    lowest = nodes('Floor', nodes('Sub', nodes('Mul', nodes('Add', nodes.double(first), 0.5), scale), reach))
    span = nodes('Ceil', nodes('Add', nodes('Mul', scale, float(BLOCK - 1)), nodes('Mul', reach, 2.0)))
    taken = nodes('Add', nodes('Unsqueeze', lowest, [1]), nodes('Range', 0.0, nodes('Add', span, 2.0), 1.0))  # (blocks, L)
    inside = nodes('And', nodes('GreaterOrEqual', taken, 0.0), nodes('Less', taken, nodes.double(old)))
    distance = nodes('Sub', nodes('Unsqueeze', nodes('Add', taken, 0.5), [1]), nodes('Unsqueeze', centers, [2]))
    raw = kernel(nodes, nodes('Abs', nodes('Div', distance, stretch)), interpolation)
    raw = nodes('Mul', raw, nodes.double(nodes('Unsqueeze', inside, [1])))
    weights = nodes('Div', raw, nodes('ReduceSum', raw, [2], keepdims=1))
    rows = nodes('Cast', nodes('Min', nodes('Max', taken, 0.0), nodes('Sub', nodes.double(old), 1.0)), to=ir.DataType.INT64)
    return rows, weights


def kernel(nodes: Nodes, distance: ir.Value, interpolation: str) -> ir.Value:
    """Return Pillow's bilinear or bicubic (a = -1/2) kernel at distances that are not negative."""
    if interpolation == 'bilinear':
        return nodes('Max', nodes('Sub', 1.0, distance), 0.0)
    square = nodes('Mul', distance, distance)
    near = nodes('Add', nodes('Mul', nodes('Sub', nodes('Mul', distance, 1.5), 2.5), square), 1.0)
    far = nodes('Add', nodes('Mul', nodes('Sub', nodes('Mul', nodes('Sub', distance, 5.0), distance), -8.0), distance), -4.0)
    outer = nodes('Where', nodes('Less', distance, 2.0), nodes('Mul', far, -0.5), 0.0)
    return nodes('Where', nodes('Less', distance, 1.0), near, outer)


def pad_to(nodes: Nodes, images: ir.Value, size: int) -> ir.Value:
    """Pad (with black) both edges to at least `size`, as `model.preprocessing.center_crop_or_pad` does."""
    missing = nodes('Max', nodes('Sub', size, edges_of(nodes, images)), 0)
    before = nodes('Div', missing, 2)
    return nodes('Pad', images, nodes('Concat', [0, 0], before, [0, 0], nodes('Sub', missing, before), axis=0))


def center_crop(nodes: Nodes, images: ir.Value, size: int, rounding: str) -> ir.Value:
    """Crop to the central `size` x `size`, as `model.preprocessing.center_crop_or_pad` does."""
    margin = nodes('Sub', edges_of(nodes, images), size)
    if rounding == 'floor':
        start = nodes('Div', margin, 2)
    else:
        start = nodes('Cast', nodes('Round', nodes('Div', nodes.double(margin), 2.0)), to=ir.DataType.INT64)
    return nodes('Slice', images, start, nodes('Add', start, size), [2, 3])


def edges_of(nodes: Nodes, images: ir.Value) -> ir.Value:
    """Return height and width (2,)."""
    return nodes('Slice', nodes('Shape', images), [2], [4])
