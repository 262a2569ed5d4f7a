"""The text bank in a checkpoint: its tensor, its section of the metadata, and what must hold between them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.data.reasoning_texts import ReasoningText, pairs_of

BANK_KEY = 'bank'
TEXT_FEATURES = 'bank.text_features'
# a reader without banks rejects such files by their version, with a hint, and not by a tensor's name
BANK_FORMAT = 2
BANK_METADATA = ('texts', 'distortions', 'temperature')
OF_EACH_TEXT = ('distortions', 'seeds', 'models')  # the last two are missing in version 0.1


def bank_columns(texts: Sequence[ReasoningText]) -> dict[str, list[Any]]:
    """Return the texts of a bank as its section of the metadata has them."""
    return {'texts': [each.text for each in texts], 'distortions': [each.distortions for each in texts],
            'seeds': [each.seed for each in texts], 'models': [each.model for each in texts]}


def bank_texts(bank: Mapping[str, Any]) -> list[ReasoningText]:
    """Return the texts of a bank; those of version 0.1 name neither seed nor model."""
    unknown = [None] * len(bank['texts'])
    return [ReasoningText(text, seed, model, pairs_of(pairs)) for text, pairs, seed, model in zip(
        bank['texts'], bank['distortions'], bank.get('seeds', unknown), bank.get('models', unknown), strict=True)]


def check_bank(tensors: dict[str, Tensor], metadata: dict[str, Any], path: str | os.PathLike) -> None:
    """Raise CheckpointError when a bank is incomplete, or its parts do not fit each other or the scorer.

    A checkpoint without a bank is complete.
    """
    features, bank = tensors.get(TEXT_FEATURES), metadata.get(BANK_KEY)
    if features is None and bank is None:
        return
    if features is None or bank is None:
        lacking = f'the tensor {TEXT_FEATURES}' if features is None else f'"{BANK_KEY}" in its metadata'
        raise CheckpointError(f'{path}: its text bank lacks {lacking}. Add the bank again: python -m pyiqa_rali add-bank.')
    missing = [key for key in BANK_METADATA if key not in bank]
    if missing:
        raise CheckpointError(f'{path}: its text bank lacks {", ".join(missing)}.')
    width = tensors['scorer.pca_components'].shape[1]
    count = len(bank['texts'])
    if tuple(features.shape) != (count, width) or any(len(bank.get(key, bank['texts'])) != count for key in OF_EACH_TEXT):
        raise CheckpointError(f'{path}: {TEXT_FEATURES} has shape {tuple(features.shape)}; with {count} texts, '
                              f'{len(bank["distortions"])} lists of distortions and {width} features it does not fit.')


def with_bank(tensors: dict[str, Tensor], metadata: dict[str, Any], text_features: Tensor,
              bank: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a checkpoint with a bank, in the place of the one that it had.

    Raises:
        CheckpointError: the features of texts and images differ in width.
    """
    width = tensors['scorer.pca_components'].shape[1]
    if text_features.shape[1] != width:
        raise CheckpointError(f'the text encoder gives {text_features.shape[1]} features and the checkpoint has {width} for an '
                              'image. Use the text encoder that the images were aligned with.')
    version = max(int(metadata.get('format_version', BANK_FORMAT)), BANK_FORMAT)
    return {**tensors, TEXT_FEATURES: text_features}, {**metadata, 'format_version': version, BANK_KEY: bank}
