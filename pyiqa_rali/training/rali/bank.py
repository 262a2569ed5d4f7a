"""Making a text bank: candidates from the run's reasoning texts, a varied choice of them, and their features."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, DataError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.data.synthetic.dataset import texts_of_item
from pyiqa_rali.model.checkpoint_bank import BANK_KEY, TEXT_FEATURES, bank_columns
from pyiqa_rali.training.rali.batches import AlignmentDataset
from pyiqa_rali.training.rali.compression import kmeans
from pyiqa_rali.training.rali.options import BankOptions, CompressOptions, TextEncoderOptions
from pyiqa_rali.training.rali.text_encoders import TextEncoder

ITEMS_AT_ONCE = 64


def candidates_of_file(path: str | os.PathLike) -> list[ReasoningText]:
    """Return the different texts of a JSON-lines file in their order."""
    return _different(item for items in load_reasoning_texts(path).values() for item in items)


def candidates_of_run(parts: Sequence[AlignmentDataset], num_candidates: int, seed: int) -> list[ReasoningText]:
    """Return the different texts that a run is aligned with; several training sets offer as many each.

    Args:
        parts: the training sets with their texts.
        num_candidates: how many pictures a set that draws anew is asked for, from the first on; a table by itself offers all
            texts, and beside others so many, drawn at random. Each of several sets has its part of the number.
        seed: of what is drawn.
    """
    own = num_candidates // len(parts)
    return _different(text for number, part in enumerate(parts)
                      for text in _some_of([_drawn_anew(part, own)] if part.texts is None else part.texts,
                                           own if len(parts) > 1 else None, [seed, number]))


def _drawn_anew(part: AlignmentDataset, pictures: int) -> list[ReasoningText]:
    if not part.table.draws_anew:  # draws that were encoded once are as many as there are
        pictures = min(pictures, len(part.table))
    starts = range(0, pictures, ITEMS_AT_ONCE)
    items = (part.table.__getitems__(list(range(start, min(start + ITEMS_AT_ONCE, pictures)))) for start in starts)
    return [text for some in items for item in some for text in texts_of_item(item)]


def _some_of(texts: Sequence[Sequence[ReasoningText]], count: int | None, seed: list[int]) -> list[ReasoningText]:
    every = _different(text for each in texts for text in each)
    if count is None or count >= len(every):
        return every
    drawn = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[index] for index in sorted(drawn)]


def bank_of_run(parts: Sequence[AlignmentDataset], sections: Sequence[DatasetSection], text_encoder: TextEncoder,
                text_options: TextEncoderOptions, options: BankOptions, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """Return the bank of a run: `make_bank` on `candidates_of_run`.

    Args:
        parts: the training sets with their texts.
        sections: their sections of the option file.
        text_encoder: the one that the images were aligned with.
        text_options: what it was built from.
        options: the section `bank`.
        seed: seeds the choice.
    """
    origin = {'texts': ', '.join(str(section.options.name) for section in sections),
              'text_encoder': text_options.path or text_options.library}
    return make_bank(candidates_of_run(parts, options.num_candidates, seed), text_encoder, options, seed, origin)


def make_bank(candidates: list[ReasoningText], text_encoder: TextEncoder, options: BankOptions, seed: int,
              origin: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Choose texts and return their features (B, C) in float16 and the section `bank` of a checkpoint's metadata.

    Args:
        candidates: different texts.
        text_encoder: the one that the images were aligned with.
        options: how many, and how they are chosen.
        seed: seeds the choice.
        origin: what is recorded about texts and encoder.

    Raises:
        DataError: no candidates.
    """
    if not candidates:
        raise DataError('bank: there is no text to choose from.')
    offered = len(candidates)
    if offered > options.num_candidates:
        drawn = np.random.default_rng(seed).choice(offered, options.num_candidates, replace=False)
        candidates = [candidates[index] for index in sorted(drawn)]
    with torch.no_grad():
        features = F.normalize(text_encoder([item.text for item in candidates]).float().cpu(), dim=-1)
    chosen = choose(features.numpy(), options.num_texts, options.selection, seed)
    values = {**bank_columns([candidates[index] for index in chosen]), 'temperature': options.temperature,
              'made': {**asdict(options), 'candidates': offered, 'seed': seed, **origin}}
    return features[chosen].to(torch.float16), json.loads(json.dumps(values))


def choose(features: np.ndarray, count: int, selection: str, seed: int) -> list[int]:
    """Return the rows of at most `count` varied texts, in ascending order.

    Args:
        features: (n, C), rows of unit length.
        count: how many; all, when there are fewer.
        selection: 'kmeans' (the text nearest to each of `count` centroids) or 'farthest' (a random text, then repeatedly the
            one farthest from all chosen so far).
        seed: seeds either.
    """
    if count >= len(features):
        return list(range(len(features)))
    points = features.astype(np.float64)
    return sorted(_farthest(points, count, seed) if selection == 'farthest' else _medoids(points, count, seed))


def _medoids(points: np.ndarray, count: int, seed: int) -> list[int]:
    centroids, assignment = kmeans(points, count, CompressOptions(num_basis=count), seed)
    chosen = []
    for cluster, centroid in enumerate(centroids):
        members = np.flatnonzero(assignment == cluster)
        chosen.append(int(members[np.linalg.norm(points[members] - centroid, axis=1).argmin()]))
    return chosen


def _farthest(points: np.ndarray, count: int, seed: int) -> list[int]:
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, cdist(points, points[chosen[-1:]])[:, 0])
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


def save_bank(path: Path, text_features: Tensor, values: dict[str, Any]) -> None:
    """Write a bank as the file between stage 1 and the export."""
    from safetensors.torch import save_file
    with atomic_path(path) as temporary:
        save_file({TEXT_FEATURES: text_features.contiguous()}, temporary, metadata={BANK_KEY: json.dumps(values)})


def load_bank(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Read what `save_bank` wrote.

    Raises:
        CheckpointError: the file is missing: stage 1 was run without a bank.
    """
    from safetensors import safe_open
    if not path.exists():
        raise CheckpointError(f'{path}: is not there; stage 1 was run without "bank:". Run it again (stages: [align, compress, '
                              'score]), or leave "bank:" out and use python -m pyiqa_rali add-bank.')
    with safe_open(path, framework='pt') as stream:
        return stream.get_tensor(TEXT_FEATURES), json.loads(stream.metadata()[BANK_KEY])


def _different(candidates: Iterable[ReasoningText]) -> list[ReasoningText]:
    """Return each text once, with what is known about its first occurrence."""
    found: dict[str, ReasoningText] = {}
    for item in candidates:
        found.setdefault(item.text, item)
    return list(found.values())
