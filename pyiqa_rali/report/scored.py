"""One set of scored images in a report: correlations, a scatter plot, and the pictures behind its points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pyiqa_rali.figures.scored import score_scatter
from pyiqa_rali.figures.style import svg_and_png
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.report.blocks import Block, Case, Cases, Figure, Section, Table, number
from pyiqa_rali.report.pictures import choose_cases, errors_of

METRICS = measures_of('plcc', 'srcc', 'krcc')
FEWEST_FOR_CORRELATIONS = 3
MEANING = {'best': 'the smallest errors', 'typical': 'errors near the median', 'worst': 'the largest errors'}


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


def scored_section(found: ScoredSet, case_of: Callable[[str, str, int, list[str]], Case]) -> Section:
    """Return table, scatter plot and pictures of one set.

    Args:
        found: the scores.
        case_of: (anchor, kind, position, lines) to the picture of an image.
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
        blocks.append(Cases(_caption(chosen, found), items))
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
