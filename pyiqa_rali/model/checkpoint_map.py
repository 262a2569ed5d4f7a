"""Fitted shares of maps of quality in a checkpoint: their tensor, their section of the metadata, and what must hold."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError

MAP_KEY, SHARES = 'map', 'map.shares'
MAP_FORMAT = 4  # a reader without them rejects such files by their version, with a hint, and not by a tensor's name
AGAIN = 'Fit it again: python -m pyiqa_rali fit-map.'


def check_map(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when fitted shares are incomplete or not finite; a checkpoint without them is complete."""
    shares, values = tensors.get(SHARES), metadata.get(MAP_KEY)
    if shares is None and values is None:
        return
    if shares is None or values is None:
        raise CheckpointError(f'{path}: its map lacks {SHARES if shares is None else "its metadata"}. {AGAIN}')
    width = values.get('width') if isinstance(values, Mapping) else None
    if tuple(shares.shape) != (width,) or not shares.isfinite().all():
        raise CheckpointError(f'{path}: {SHARES} has shape {tuple(shares.shape)}, or values that are not finite; it must be '
                              f'({width},). {AGAIN}')


def with_map(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], shares: Tensor,
             made: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint with fitted shares, in the place of those that it had.

    Args:
        tensors: of the checkpoint.
        metadata: of the checkpoint.
        shares: (W,) for each output of the backbone.
        made: how they were fitted, JSON values.
    """
    told = {**metadata, 'format_version': max(MAP_FORMAT, int(metadata['format_version'])),
            MAP_KEY: {'width': len(shares), 'made': dict(made)}}
    return {**tensors, SHARES: shares.detach().float().cpu()}, told
