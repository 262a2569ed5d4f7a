"""Scores of every image of a data set: from the cache where they are known, and every missing one told."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset

from pyiqa_rali.core.errors import OptionError, first_line
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.data.table_pictures import reads_rows, row_paths
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.evaluation.score_cache import ScoreCache, image_key
from pyiqa_rali.scoring.decoded import Pixels
from pyiqa_rali.scoring.engine import score_windows
from pyiqa_rali.scoring.entries import chunks
from pyiqa_rali.scoring.passes import Scorer
from pyiqa_rali.scoring.score_table import UNREADABLE, ImageScore

PIXEL_KEYS = ('type', 'augment', 'img_range', 'upright')  # options of a data set that change what a metric sees


@dataclass
class ScoredImage(ImageScore):
    """The score of one image of a data set, or why it has none.

    Attributes:
        mos: in the data set's unit.
    """

    mos: float = float('nan')


class TableReader(Dataset):
    """The pictures of a table, for the engine: from a position to a `ScoredImage` and the pixels, with the reference.

    Args:
        table: the data set.
        with_references: whether the metric compares with them.
    """

    def __init__(self, table: QualityTable, with_references: bool):
        self.table, self.with_references = table, with_references
        self._rows = table.images_and_mos()

    def __getitem__(self, position: int) -> tuple[ScoredImage, Pixels]:
        """Read one image."""
        image, mos = self._rows[position]
        try:
            pixels = self._pixels(position)
        except UnreadableImage as error:
            reason = error.reason if error.path == image else str(error)  # its reference may be the one that cannot be read
            return ScoredImage(image, None, reason, (position, 0), UNREADABLE, mos=mos), ()
        except Exception as error:  # an augmentation, such as a crop that is larger than the picture
            return ScoredImage(image, None, first_line(error), (position, 0), UNREADABLE, mos=mos), ()
        return ScoredImage(image, position=(position, 0), mos=mos), pixels[:2 if self.with_references else 1]

    def _pixels(self, position: int) -> Pixels:
        if reads_rows(self.table.base):
            return tuple(np.array(picture) for picture in self.table.pictures(position))
        item = self.table[position]
        return tuple(item[key].permute(1, 2, 0).numpy() for key in ('img', 'ref_img') if key in item)


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
        DataError: the metric does not return one score a picture.
    """
    with_references = metric.metric_mode == 'FR'
    references = _references(table, label) if with_references else [[] for _ in range(len(table))]
    pairs = table.images_and_mos()
    pixels = {**{key: values.get(key) for key in PIXEL_KEYS}, 'seed': table.seed if values.get('augment') else None}
    keys = [image_key([image, *reference], pixels) for (image, _), reference in zip(pairs, references, strict=True)]
    scored = [ScoredImage(image, cache.get(key), mos=mos) for (image, mos), key in zip(pairs, keys, strict=True)]
    wanted = [position for position, each in enumerate(scored) if each.score is None]
    batch_size = values.get('batch_size_per_gpu', 1)
    factor = float(values.get('img_range') or 1) if reads_rows(table.base) else 1.0
    found = score_windows(TableReader(table, with_references), chunks(wanted, batch_size), Scorer(metric, batch_size, factor),
                          values.get('num_worker_per_gpu', 0) if wanted else 0, score_in_workers=False)
    with progress_bar(total=len(pairs), initial=len(pairs) - len(wanted), desc=f'{label} on {table.name}', unit='image',
              disable=not wanted) as bar:
        for window in found:
            for each in cast(list[ScoredImage], window):  # as the reader made them
                position = each.position[0]
                scored[position], key = each, keys[position]
                if each.score is not None and key is not None:
                    cache.add(key, each.score, each.image)
            bar.update(len(window))
    return scored


def _references(table: QualityTable, label: str) -> list[list[str]]:
    """Return the reference image of each image."""
    paths = [row_paths(table.base, index) for index in range(len(table))]
    if not all(len(each) == 2 for each in paths):
        raise OptionError(f'metrics: {label}: compares with a reference image, and the data set {table.name} has none. Leave '
                          'one of them out, or evaluate them separately.')
    return [each[1:] for each in paths]
