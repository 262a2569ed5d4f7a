"""The alignment with prompts in a checkpoint: its tensors, those of the text tower, and what must hold between them."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.basis_scorer import scorer_digest
from pyiqa_rali.model.prompt_scorer import PROMPTS_KEY, PromptScorer

PREFIX, TOWER_PREFIX = 'prompts.', 'text_tower.'
# a reader without prompts rejects such files by their version, with a hint, and not by a tensor's name
PROMPTS_FORMAT = 5
PROMPTS_METADATA = ('mos_range', 'lower_better', 'scorer')
AGAIN = 'Copy or export it again.'


def check_prompts(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when an alignment with prompts is incomplete, or its parts do not fit each other or the scorer.

    A checkpoint without one is complete.
    """
    lacking = {'its tensors': not any(name.startswith(PREFIX) for name in tensors),
               'its text tower': not any(name.startswith(TOWER_PREFIX) for name in tensors),
               f'"{PROMPTS_KEY}" in its metadata': metadata.get(PROMPTS_KEY) is None}
    if all(lacking.values()):
        return
    missing = [name for name, is_missing in lacking.items() if is_missing]
    missing += [] if missing else [key for key in PROMPTS_METADATA if key not in metadata[PROMPTS_KEY]]
    if missing:
        raise CheckpointError(f'{path}: its alignment with prompts lacks {", ".join(missing)}. {AGAIN}')
    num_basis, width = len(tensors['scorer.basis_scores']), tensors['scorer.pca_components'].shape[1]
    for name, tensor in PromptScorer(metadata[PROMPTS_KEY], width, num_basis).state_dict().items():
        found = tensors.get(PREFIX + name)
        if found is None or found.shape != tensor.shape or not found.isfinite().all():
            told = 'is missing' if found is None else f'has shape {tuple(found.shape)}, or values that are not finite'
            raise CheckpointError(f'{path}: {PREFIX}{name} {told}; it must be {tuple(tensor.shape)}. {AGAIN}')


def with_prompts(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], prompts: Mapping[str, Tensor],
                 tower: Mapping[str, Tensor], values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint with an alignment with prompts, in the place of the one that it had.

    Args:
        tensors: of the checkpoint.
        metadata: of the checkpoint.
        prompts: the state of a `PromptScorer`, its basis scores in the unit of the MOS of alignment.
        tower: the state of a `TextTower`.
        values: its section of the metadata, without the digest of the scorer.

    Raises:
        CheckpointError: it does not fit the checkpoint.
    """
    tensors, metadata = without_prompts(tensors, metadata)
    scorer = {name.removeprefix('scorer.'): tensor for name, tensor in tensors.items() if name.startswith('scorer.')}
    changed = {**tensors, **{PREFIX + name: tensor for name, tensor in prompts.items()},
               **{TOWER_PREFIX + name: tensor for name, tensor in tower.items()}}
    told = {**metadata, 'format_version': max(PROMPTS_FORMAT, int(metadata['format_version'])),
            PROMPTS_KEY: {**values, 'scorer': scorer_digest(scorer)}}
    check_prompts(changed, told, 'the checkpoint')
    return changed, told


def without_prompts(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint without its alignment with prompts."""
    return ({name: tensor for name, tensor in tensors.items() if not name.startswith((PREFIX, TOWER_PREFIX))},
            {name: value for name, value in metadata.items() if name != PROMPTS_KEY})
