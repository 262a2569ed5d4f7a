"""Intervals in a checkpoint: their tensors, their section of the metadata, and what must hold between them."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.basis_scorer import scorer_digest

INTERVAL_KEY, PREFIX = 'interval', 'interval.'
# a reader without intervals rejects such files by their version, with a hint, and not by a tensor's name
INTERVAL_FORMAT = 3
INTERVAL_METADATA = ('signals', 'neighbours', 'offset', 'references', 'images', 'scorer')
LARGEST = 2_000_000  # bytes that intervals may add to a checkpoint
AGAIN = 'Calibrate it again: python -m pyiqa_rali calibrate.'


def check_interval(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when intervals are incomplete, or their parts do not fit each other or the scorer.

    A checkpoint without intervals is complete.
    """
    present, values = any(name.startswith(PREFIX) for name in tensors), metadata.get(INTERVAL_KEY)
    if not present and values is None:
        return
    if not present or values is None:
        lacking = f'"{INTERVAL_KEY}" in its metadata' if present else 'its tensors'
        raise CheckpointError(f'{path}: its interval lacks {lacking}. {AGAIN}')
    missing = [key for key in INTERVAL_METADATA if key not in values]
    if missing:
        raise CheckpointError(f'{path}: its interval lacks {", ".join(missing)}. {AGAIN}')
    from pyiqa_rali.model.interval import SIGNALS, IntervalHead
    unknown = [name for name in values['signals'] if name not in SIGNALS]
    if unknown:
        raise CheckpointError(f'{path}: its interval has the signals {", ".join(unknown)}, which this version of pyiqa_rali '
                              'does not know. Upgrade pyiqa-rali.')
    num_basis, pca_dim = tensors['scorer.basis_vectors'].shape
    expected = IntervalHead(values, pca_dim, num_basis, metadata['mos_range']).state_dict()
    for name, tensor in expected.items():
        found = tensors.get(PREFIX + name)
        if found is None or found.shape != tensor.shape or not found.isfinite().all():
            told = 'is missing' if found is None else f'has shape {tuple(found.shape)}, or values that are not finite'
            raise CheckpointError(f'{path}: {PREFIX}{name} {told}; it must be {tuple(tensor.shape)}. {AGAIN}')


def with_interval(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], interval: Mapping[str, Tensor],
                  values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint with an interval, in the place of the one that it had.

    Args:
        tensors: of the checkpoint.
        metadata: of the checkpoint.
        interval: the state of an `IntervalHead`.
        values: its section of the metadata.

    Raises:
        CheckpointError: it would take more than `LARGEST` bytes.
    """
    tensors, metadata = without_interval(tensors, metadata)
    size = sum(tensor.numel() * tensor.element_size() for tensor in interval.values())
    if size > LARGEST:
        raise CheckpointError(f'the interval takes {size / 1e6:.2f} MB, and {LARGEST / 1e6:g} MB is allowed. Keep fewer '
                              'references (interval: references).')
    scorer = {name.removeprefix('scorer.'): tensor for name, tensor in tensors.items() if name.startswith('scorer.')}
    return ({**tensors, **{PREFIX + name: tensor for name, tensor in interval.items()}},
            {**metadata, 'format_version': max(INTERVAL_FORMAT, metadata['format_version']),
             INTERVAL_KEY: {**values, 'scorer': scorer_digest(scorer)}})


def without_interval(tensors: Mapping[str, Tensor],
                     metadata: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint without its interval."""
    return ({name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)},
            {name: value for name, value in metadata.items() if name != INTERVAL_KEY})
