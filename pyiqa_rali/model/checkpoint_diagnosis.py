"""The diagnosis in a checkpoint: its tensors, its section of the metadata, and what must hold between them."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.diagnosis import DIAGNOSIS_KEY, shapes_of

PREFIX = f'{DIAGNOSIS_KEY}.'
# a reader without diagnoses rejects such files by their version, with a hint, and not by a tensor's name
DIAGNOSIS_FORMAT = 3
DIAGNOSIS_METADATA = ('classes', 'faults')


def check_diagnosis(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when a diagnosis is incomplete, or its parts do not fit each other or the encoder.

    A checkpoint without a diagnosis is complete.
    """
    found = {name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(PREFIX)}
    values = metadata.get(DIAGNOSIS_KEY)
    if not found and values is None:
        return
    again = 'Make it again: python -m pyiqa_rali add-diagnosis.'
    if not found or values is None:
        lacking = 'its tensors' if values is not None else f'"{DIAGNOSIS_KEY}" in its metadata'
        raise CheckpointError(f'{path}: its diagnosis lacks {lacking}. {again}')
    missing = [key for key in DIAGNOSIS_METADATA if key not in values]
    if missing:
        raise CheckpointError(f'{path}: its diagnosis lacks {", ".join(missing)}. {again}')
    width = tensors['scorer.pca_components'].shape[1]
    expected = shapes_of(len(values['classes']), len(values['faults']), width)
    if found != expected:
        wrong = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
        raise CheckpointError(f'{path}: its diagnosis has {PREFIX}{wrong} of shape {found.get(wrong)}; with '
                              f'{len(values["classes"])} classes, {len(values["faults"])} faults and {width} features it must '
                              f'be {expected.get(wrong)}. {again}')


def with_diagnosis(tensors: dict[str, Tensor], metadata: dict[str, Any], diagnosis: Mapping[str, Tensor],
                   values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint with a diagnosis, in the place of the one that it had.

    Raises:
        CheckpointError: the diagnosis does not fit the checkpoint.
    """
    changed = {**{name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)},
               **{PREFIX + name: tensor for name, tensor in diagnosis.items()}}
    told = {**metadata, 'format_version': max(int(metadata['format_version']), DIAGNOSIS_FORMAT), DIAGNOSIS_KEY: dict(values)}
    check_diagnosis(changed, told, 'the checkpoint')
    return changed, told
