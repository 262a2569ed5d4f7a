"""Scores of every image of a data set: from the cache where they are known, and every missing one told."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from pyiqa_rali.data.tables import QualityTable, seeded
from pyiqa_rali.errors import DataError, OptionError
from pyiqa_rali.evaluation.score_cache import ScoreCache, image_key
from pyiqa_rali.image_files import first_line

REASONS = ('unreadable', 'failed', 'not_finite')
PIXEL_KEYS = ('type', 'augment', 'img_range')  # options of a data set that change what a metric sees
METRIC_SEED = 123  # some of pyiqa's metrics look at random crops: every picture gets the same random numbers


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
    with tqdm(total=len(pairs), initial=len(pairs) - len(wanted), desc=f'{label} on {table.name}', unit='image',
              disable=not wanted) as bar:
        for batch in loader:
            for read, score, reason, message in _score_batch(metric, batch):
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


def _score_batch(metric: Any, batch: list[_Read]) -> Iterator[tuple[_Read, float | None, str, str]]:
    """Yield score, reason and message of each item; pictures of one size pass the metric together."""
    sizes: dict[tuple[int, ...], list[_Read]] = {}
    for read in batch:
        if read.item is None:
            yield read, None, 'unreadable', read.message
        else:
            sizes.setdefault(tuple(read.item['img'].shape), []).append(read)
    for reads in sizes.values():
        yield from _score_equal_sizes(metric, reads)


def _score_equal_sizes(metric: Any, reads: list[_Read]) -> Iterator[tuple[_Read, float | None, str, str]]:
    """Score pictures of one size together, and one by one when that fails, so that one picture fails alone."""
    inputs = [torch.stack([read.item[key] for read in reads]) for key in
              (('img', 'ref_img') if metric.metric_mode == 'FR' else ('img',))]
    try:
        with seeded(METRIC_SEED, 0):
            found = metric(*inputs)
        values = torch.as_tensor(found).flatten().tolist()
    except Exception as error:  # a metric may refuse a picture in any way; it is counted, and told
        if isinstance(error, getattr(torch, 'AcceleratorError', ())):
            raise  # the device is broken: every further picture would fail
        if len(reads) > 1:
            for read in reads:
                yield from _score_equal_sizes(metric, [read])
        else:
            yield reads[0], None, 'failed', f'{type(error).__name__}: {first_line(error)}'
        return
    if len(values) != len(reads):
        raise DataError(f'metric {metric.metric_name}: returned {len(values)} scores for {len(reads)} pictures. It does not '
                        'score single pictures in a batch; set batch_size_per_gpu: 1.')
    for read, value in zip(reads, values, strict=True):
        if math.isfinite(value):
            yield read, value, '', ''
        else:
            yield read, None, 'not_finite', f'the score is {value}'
