"""A sheet of scored pictures from the worst to the best, which shows what the scores of a table look like."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.addresses import is_address
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.data.reasoning_texts import paired
from pyiqa_rali.data.tables import QualityTable
from pyiqa_rali.data.training_images import overlap
from pyiqa_rali.figures.scored import SheetPicture, score_sheet, spread_over_scores
from pyiqa_rali.figures.style import save_png
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.scoring.entries import ImageEntry, as_entry, read_entry
from pyiqa_rali.scoring.score_table import ImageScore
from pyiqa_rali.scoring.shards import BETWEEN
from pyiqa_rali.scoring.sources import ImageSources

PICTURES = 15
FEWEST_FOR_SRCC = 3
SRCC = measures_of('srcc')


@dataclass(frozen=True)
class Known:
    """What a data set says about one of its images.

    Attributes:
        mos: in the data set's unit.
        text: the picture's distortions; empty when the table does not have them.
        kinds: what it has in common with others, such as its photograph: a sheet shows different ones.
    """

    mos: float
    text: str = ''
    kinds: tuple[str, ...] = ()


def known_images(table: QualityTable) -> dict[str, Known]:
    """Return what a data set says about its images, by path; a table of make-dataset also has their distortions."""
    images = table.images_and_mos()
    columns = getattr(table.base, 'meta_info', ())
    blank = [''] * len(images)
    distortions, levels, photographs = (table.column(name) if name in columns else blank
                                        for name in ('distortion', 'level', 'photograph'))
    return {path: Known(mos, _in_words(distortion, level), tuple(filter(None, (distortion, photograph))))
            for (path, mos), distortion, level, photograph in zip(images, distortions, levels, photographs, strict=True)}


def _in_words(distortion: str, level: str) -> str:
    """Return a table's distortions and levels in words.

    Example:
        >>> _in_words('motion_blur', '4.0'), _in_words('jpeg+haze', '3+1.5'), _in_words('pristine', '0'), _in_words('', '')
        ('motion blur, level 4', 'jpeg 3 + haze 1.5', 'pristine', '')
    """
    pairs = paired(distortion or None, level or None)
    if pairs is None:
        return distortion.replace('_', ' ')
    named = [(name.replace('_', ' '), f'{value:g}') for name, value in pairs]
    if len(named) == 1:
        return f'{named[0][0]}, level {named[0][1]}'
    return ' + '.join(f'{name} {value}' for name, value in named) or 'pristine'


def draw_sheet(scores: Iterable[ImageScore], out: Path, metric: Any, name: str, known: Mapping[str, Known] | None = None,
               reading: ReadingOptions = READING) -> Path:
    """Draw pictures whose scores are spread from the worst to the best, and return the file.

    Args:
        scores: all images; those without a score are left out.
        out: the PNG.
        metric: the one that scored them, for its range, direction and training images.
        name: of the images, for the heading.
        known: what a data set says about its images, by path.
        reading: how pictures are read.

    Raises:
        DataError: no image has a score, or a picture cannot be read any more.
    """
    scored = [(each.image, each.score) for each in scores if each.score is not None]
    if not scored:
        raise DataError('--sheet: no image has a score; there is no picture to show.')
    names, values = [image for image, _ in scored], np.array([score for _, score in scored])
    good = -values if metric.lower_better else values
    facts = [None if known is None else known.get(image) for image in names]
    chosen = spread_over_scores(good, min(PICTURES, len(names)), [fact.kinds if fact else () for fact in facts])
    items = [SheetPicture(_pixels(names[place], reading), float(values[place]), _told(facts[place])) for place in chosen]
    figure = score_sheet(items, _heading(name, names, metric, known), _remark(values, facts, metric), _span(metric, values),
                         metric.lower_better)
    return save_png(figure, out)


def _pixels(name: str, reading: ReadingOptions) -> np.ndarray:
    try:
        return read_entry(_entry(name), reading)
    except UnreadableImage as error:
        raise DataError(f'--sheet: {error}') from error


def _entry(name: str) -> ImageEntry:
    """Return where an image of a table is; the member of a shard or of a table of pictures is searched for in it."""
    shard = name.split(BETWEEN)[0]
    if os.path.exists(name) or not (os.path.isfile(shard) or (is_address(shard) and shard != name)):
        return as_entry(name)
    return next((entry for entry in ImageSources([shard]) if entry.name == name), as_entry(name))


def _told(fact: Known | None) -> str:
    return '' if fact is None else '\n'.join(filter(None, (f'MOS {fact.mos:.2f}', fact.text)))


def _heading(name: str, images: Sequence[str], metric: Any, known: Mapping[str, Known] | None) -> str:
    found = overlap(getattr(metric.net, 'training_images', None), images) if known is not None else None
    unseen = found is not None and found.trained_on == [] and not found.unrecorded
    return f'{name}: from the worst score to the best' + (', of pictures that training did not see' if unseen else '')


def _remark(scores: np.ndarray, facts: Sequence[Known | None], metric: Any) -> str:
    """Return how many images there are, and how well their scores agree with MOS where it is known."""
    direction = 'lower' if metric.lower_better else 'higher'
    told = f'{len(facts)} pictures, of which {min(PICTURES, len(facts))} are shown; {direction} scores are better'
    mos = np.array([fact.mos for fact in facts if fact is not None])
    if len(mos) == len(scores) >= FEWEST_FOR_SRCC and np.ptp(mos) > 0:
        told += f'; SRCC of score and MOS {abs(correlations(scores, mos, SRCC, "sheet")["srcc"]):.3f} over all of them'
    return told


def _span(metric: Any, scores: np.ndarray) -> tuple[float, float]:
    """Return the range of a metric's scores, or of these scores where it has none."""
    ends = [float(text) for text in re.findall(r'-?\d+(?:\.\d+)?', str(metric.score_range or ''))]
    low, high = ends if len(ends) == 2 else (float(scores.min()), float(scores.max()))
    return low, high if high > low else low + 1
