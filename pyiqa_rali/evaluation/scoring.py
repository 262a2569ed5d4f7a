"""Scores of every image of a data set: from the cache where they are known, and every missing one told."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.data.tables import QualityTable, seeded
from pyiqa_rali.evaluation.score_cache import ScoreCache, image_key

REASONS = ('unreadable', 'failed', 'not_finite')
PIXEL_KEYS = ('type', 'augment', 'img_range')  # options of a data set that change what a metric sees
METRIC_SEED = 123  # some metrics look at random crops: every picture gets the same random numbers


@dataclass
class ScoredImage:
    """One image of a data set.

    Attributes:
        image: its path.
        mos: in the data set's unit.
        score: in the metric's unit; None when there is none.
        reason: then, one of `REASONS`.
        message: then, what went wrong.
    """

    image: str
    mos: float
    score: float | None = None
    reason: str = ''
    message: str = ''


@dataclass
class _Read:
    position: int
    item: dict[str, Any] | None = None
    message: str = ''


class _Items(Dataset):
    """The items of a table, an error message in place of one that cannot be read."""

    def __init__(self, table: QualityTable):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, position: int) -> _Read:
        try:
            return _Read(position, self.table[position])
        except Exception as error:  # Pillow raises a dozen different classes for the ways in which a file can be broken
            return _Read(position, message=first_line(error))


def score_table(metric: Any, table: QualityTable, values: dict[str, Any], cache: ScoreCache, label: str) -> list[ScoredImage]:
    """Return a score or a reason for every image, in the table's order; new scores go to the cache at once.

    Args:
        metric: pyiqa's.
        table: the data set.
        values: its option section: loader keys, and those that change pixels.
        cache: the metric's.
        label: the metric's, for the progress bar and messages.

    Raises:
        OptionError: the metric compares with references, and the data set has none.
    """
    pairs = table.images_and_mos()
    references = _references(metric, table, label)
    pixels = {**{key: values.get(key) for key in PIXEL_KEYS}, 'seed': table.seed if values.get('augment') else None}
    keys = [image_key([image, *reference], pixels) for (image, _), reference in zip(pairs, references, strict=True)]
    scored = [ScoredImage(image, mos, cache.get(key)) for (image, mos), key in zip(pairs, keys, strict=True)]
    wanted = [position for position, each in enumerate(scored) if each.score is None]
    loader = DataLoader(Subset(_Items(table), wanted), values.get('batch_size_per_gpu', 1), collate_fn=list,
                        num_workers=values.get('num_worker_per_gpu', 0) if wanted else 0)
    scorer = _Scorer(metric)
    with tqdm(total=len(pairs), initial=len(pairs) - len(wanted), desc=f'{label} on {table.name}', unit='image',
              disable=not wanted) as bar:
        for batch in loader:
            for read, score, reason, message in scorer.score_batch(batch):
                each = scored[read.position]
                each.score, each.reason, each.message = score, reason, message
                if score is not None and keys[read.position] is not None:
                    cache.add(keys[read.position], score, each.image)
            bar.update(len(batch))
    return scored


def _references(metric: Any, table: QualityTable, label: str) -> list[list[str]]:
    """Return the reference image of each image, nothing for metrics without."""
    if metric.metric_mode != 'FR':
        return [[] for _ in range(len(table))]
    rows = table.base.paths_mos
    if not all(len(row) > 2 and isinstance(row[1], str) for row in rows):
        raise OptionError(f'metrics: {label}: compares with a reference image, and the data set {table.name} has none. Leave '
                          'one of them out, or give them an evaluation of their own.')
    return [[str(row[0])] for row in rows]


class _Scorer:
    """Scores pictures: those of one size together, until the metric is seen to draw random numbers.

    From then on they are scored one by one, with the same random numbers each, so that no score depends on the pictures that
    happen to share a batch.

    Args:
        metric: pyiqa's.
    """

    def __init__(self, metric: Any):
        self.metric, self.draws = metric, False

    def score_batch(self, batch: list[_Read]) -> Iterator[tuple[_Read, float | None, str, str]]:
        """Yield score, reason and message of each item."""
        sizes: dict[tuple[int, ...], list[_Read]] = {}
        for read in batch:
            if read.item is None:
                yield read, None, 'unreadable', read.message
            else:
                sizes.setdefault(tuple(read.item['img'].shape), []).append(read)
        for reads in sizes.values():
            together = self._together(reads) if len(reads) > 1 and not self.draws else None
            for place, read in enumerate(reads):
                yield read, *(self._alone(read) if together is None else _outcome(together[place]))

    def _together(self, reads: list[_Read]) -> list[float] | None:
        """Return the scores of pictures of one size; None when each has to be scored by itself.

        Raises:
            DataError: the metric returns another number of scores.
        """
        try:
            values = self._ask(reads)
        except Exception as error:  # of one of the pictures, which fails alone
            _raise_when_the_device_is_broken(error)
            return None
        if len(values) != len(reads):
            raise DataError(f'metric {self.metric.metric_name}: returned {len(values)} scores for {len(reads)} pictures. It '
                            'does not score single pictures in a batch; set batch_size_per_gpu: 1.')
        return None if self.draws else values

    def _alone(self, read: _Read) -> tuple[float | None, str, str]:
        """Return score, reason and message of one picture.

        Raises:
            DataError: the metric does not return one score.
        """
        try:
            values = self._ask([read])
        except Exception as error:  # a metric may refuse a picture in any way; it is counted, and told
            _raise_when_the_device_is_broken(error)
            return None, 'failed', f'{type(error).__name__}: {first_line(error)}'
        if len(values) != 1:
            raise DataError(f'metric {self.metric.metric_name}: returned {len(values)} scores for one picture. Leave it out.')
        return _outcome(values[0])

    def _ask(self, reads: list[_Read]) -> list[float]:
        """Return what the metric says of pictures of one size, and note whether it drew random numbers for that."""
        inputs = [torch.stack([read.item[key] for read in reads]) for key in
                  (('img', 'ref_img') if self.metric.metric_mode == 'FR' else ('img',))]
        with seeded(METRIC_SEED, 0):
            before = _random_states()
            found = self.metric(*inputs)
            self.draws = self.draws or before != _random_states()
        return torch.as_tensor(found).flatten().tolist()


def _outcome(value: float) -> tuple[float | None, str, str]:
    return (value, '', '') if math.isfinite(value) else (None, 'not_finite', f'the score is {value}')


def _raise_when_the_device_is_broken(error: Exception) -> None:
    if isinstance(error, getattr(torch, 'AcceleratorError', ())):
        raise error  # every further picture would fail


def _random_states() -> tuple[Any, ...]:
    """Return the states of Python's, NumPy's and torch's generators, to be compared."""
    _, words, *places = np.random.get_state()
    on_gpu = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return random.getstate(), words.tobytes(), places, torch.get_rng_state().numpy().tobytes(), on_gpu
