"""One set of scored images in a report: correlations, a scatter plot, the pictures behind it, and what was trained on."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import UnreadableImage, read_rgb
from pyiqa_rali.data.training_images import overlap_told
from pyiqa_rali.figures.scored import score_scatter
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.report.aspects import AspectsOf
from pyiqa_rali.report.blocks import Block, Case, Cases, Figure, Section, Table, Text, number

METRICS = measures_of('plcc', 'srcc', 'krcc')
FEWEST_FOR_CORRELATIONS = 3
MEANING = {'best': 'the smallest errors', 'typical': 'errors near the median', 'worst': 'the largest errors'}
ASPECTS_SAID = ' Bars are aspects of quality, from 0 to 1 for the best; where one is wrong, its clearest fault is named.'
LONGEST_EDGE = 280  # pixels of a picture in a page
UNKNOWN = Text('Whether test images were trained on is unknown: these results are of a version that did not look.')


@dataclass
class ScoredSet:
    """Scores of one metric on one data set; images without a score are left out and counted.

    Attributes:
        name: of the data set, or of data set and metric.
        anchor: name of its pictures within the page.
        images: n names or paths.
        mos: (n,) in the data set's unit.
        scores: (n,) in the metric's unit.
        same_scale: whether scores and MOS have one unit and direction.
        opposite: whether low scores mean high MOS.
        missing: images that have no score.
        command: the command that makes the scores again.
    """

    name: str
    anchor: str
    images: Sequence[str]
    mos: np.ndarray
    scores: np.ndarray
    same_scale: bool
    opposite: bool = False
    missing: int = 0
    command: str = ''


def scored_section(found: ScoredSet, case_of: Callable[[str, str, int, list[str]], Case],
                   aspects_of: AspectsOf | None = None) -> Section:
    """Return table, scatter plot and pictures of one set.

    Args:
        found: the scores.
        case_of: (anchor, kind, position, lines) to the picture of an image.
        aspects_of: the aspects of an image by its position; None where nothing tells.
    """
    blocks: list[Block] = [_table(found)]
    if len(found.scores):
        errors = errors_of(found.scores, found.mos, found.same_scale, found.opposite)
        chosen: dict[str, Sequence[tuple[int, str]]] = {
            kind: [(position, f'{found.anchor}-{kind}-{rank}') for rank, position in enumerate(positions)]
            for kind, positions in choose_cases(errors, found.mos).items()}
        both = np.concatenate([found.scores, found.mos])
        drawn = score_scatter(found.scores, found.mos, (both.min(), both.max()) if found.same_scale else None, chosen=chosen)
        svg, png = svg_and_png(drawn)
        blocks.append(Figure('Each point is an image. The marked ones lead to their pictures below.', svg, png, found.command))
        items = [case_of(anchor, kind, position, _lines(found, position, errors[position]))
                 for kind, points in chosen.items() for position, anchor in points]
        for item, position in zip(items, [position for points in chosen.values() for position, _ in points], strict=True):
            item.aspects = aspects_of(position) if aspects_of else ()
        blocks.append(Cases(_caption(chosen, found) + (ASPECTS_SAID if aspects_of else ''), items))
    return Section(found.name, blocks)


def _table(found: ScoredSet) -> Table:
    turned = -found.scores if found.opposite else found.scores
    rows = [('images', str(len(found.scores) + found.missing)), ('without a score', str(found.missing))]
    if len(found.scores) < FEWEST_FOR_CORRELATIONS:
        rows.append(('correlations', f'need {FEWEST_FOR_CORRELATIONS} images at least'))
    elif np.ptp(found.mos) == 0:
        rows.append(('correlations', 'do not exist: every image has the same MOS'))
    else:
        values = correlations(turned, found.mos, METRICS, found.name)
        rows += [(name.upper(), number(value)) for name, value in values.items()]
    if found.same_scale and len(found.scores):
        rows.append(('RMSE', number(float(np.sqrt(np.mean((found.scores - found.mos) ** 2))))))
    return Table('Agreement of scores and MOS, no curve fitted', ('measure', 'value'), rows)


def _lines(found: ScoredSet, position: int, error: float) -> list[str]:
    off = f'off by {error:.2f}' if found.same_scale else f'off by {error:.0%} of the ranks'
    return [f'score {found.scores[position]:.3g}, MOS {found.mos[position]:.3g}', off]


def _caption(chosen: dict[str, Sequence[tuple[int, str]]], found: ScoredSet) -> str:
    measure = 'distance between score and MOS' if found.same_scale else 'distance between the ranks of score and MOS'
    kinds = '; '.join(f'{kind}: {MEANING[kind]}' for kind, points in chosen.items() if points)
    return f'The pictures behind the points, by the {measure} ({kinds}).'


def choose_cases(errors: np.ndarray, mos: np.ndarray, count: int = 4) -> dict[str, list[int]]:
    """Return positions of the pictures with the smallest, the median and the largest errors, none twice.

    The best and the typical ones are taken from parts of the MOS range with equally many pictures each, so that good and bad
    pictures are among them. The worst are the worst.

    Args:
        errors: (n,), 0 for a perfect score.
        mos: (n,).
        count: how many of each kind, fewer where there are not enough pictures.
    """
    count = min(count, max(1, len(errors) // len(MEANING)))
    worst = [int(position) for position in np.argsort(-errors, kind='stable')[:count]]
    chosen = {'best': [], 'typical': [], 'worst': worst}
    taken = set(worst)
    parts = np.array_split(np.argsort(mos, kind='stable'), count)
    for kind, target in (('best', 0.0), ('typical', float(np.median(errors)))):
        for part in parts:
            left = [int(position) for position in part if int(position) not in taken]
            if left:
                position = min(left, key=lambda each: abs(errors[each] - target))
                chosen[kind].append(position)
                taken.add(position)
    return chosen


def errors_of(scores: np.ndarray, mos: np.ndarray, same_scale: bool, lower_better: bool = False) -> np.ndarray:
    """Return how far each score is off: in MOS units on the same scale, otherwise in ranks, from 0 to 1.

    Args:
        scores: (n,).
        mos: (n,).
        same_scale: whether both have one unit and one direction.
        lower_better: whether the scores' direction is opposite to that of the MOS.
    """
    if same_scale:
        return np.abs(scores - mos)
    from scipy.stats import rankdata
    ranks = rankdata(-scores if lower_better else scores) - rankdata(mos)
    return np.abs(ranks) / max(1, len(scores) - 1)


def case(anchor: str, kind: str, path: str | Path, lines: Sequence[str]) -> Case:
    """Return a picture from a file with what is said of it; a file that cannot be read says why."""
    try:
        return Case(anchor, kind, Path(path).name, lines, jpeg=thumbnail(read_rgb(path)))
    except UnreadableImage as error:
        return Case(anchor, kind, Path(path).name, lines, problem=f'cannot be shown: {error.reason}')


def thumbnail(pixels: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) pixels as a small JPEG."""
    from PIL import Image
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format='JPEG', quality=85)
    return stream.getvalue()


def overlap_block(rows: list[dict[str, Any]] | None, options: Mapping[str, Any], section: str, folder: Path) -> Block:
    """Return what a report says of test images that were trained on.

    Args:
        rows: `Overlap.plain` of each data set, with its name under `dataset` and, of several models, theirs under `metric`;
            None where the results are of a version that did not look.
        options: of the run or the evaluation, as plain values.
        section: of its key `overlap`.
        folder: the run's, for the message.

    Raises:
        DataError: some were, and the options do not say that they are to be counted only.
    """
    if rows is None:
        return UNKNOWN
    choice = (options.get(section) or {}).get('overlap', 'fail')
    tainted = [row for row in rows if row['trained_on']]
    if tainted and choice != 'count':
        first = tainted[0]
        raise DataError(f'{folder}: {first["trained_on"]} of {first["images"]} test images of {first["dataset"]} were trained '
                        f'on: {", ".join(first["first"])}. Its options do not have {section}: overlap: count, which lets such '
                        'results be shown.')
    cells = [(row['dataset'], *([row['metric']] if 'metric' in row else []), overlap_told(row)) for row in rows]
    headers = ('data set', 'metric', 'trained on') if rows and 'metric' in rows[0] else ('data set', 'trained on')
    return Table('Test images that were trained on, by digests of their content and names', headers, cells)
