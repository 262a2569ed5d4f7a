"""Figure of what carries across data sets: a panel for each tested set, a row for each arm and what it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyiqa_rali.figures.style import BLUE, GRAY, ORANGE, PAPER, panels, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Dots:
    """The seeds of one arm on one tested set.

    Attributes:
        arm, trained_on, tested_on: names.
        in_domain: whether the set is among those trained on.
        values: (seeds,) correlations.
    """

    arm: str
    trained_on: str
    tested_on: str
    in_domain: bool
    values: np.ndarray


@styled
def draw_carry(dots: Sequence[Dots], out: Path, title: str) -> Path:
    """Draw seeds as dots and their median as a tick; orange and filled in-domain, blue and hollow elsewhere.

    A gray line shows the median of the first arm with the same training sets, for comparison.

    Args:
        dots: of one encoder; the first arm is what the others are compared with.
        out: the PNG.
        title: above all panels.
    """
    tested = list(dict.fromkeys(each.tested_on for each in dots))
    rows = _rows(dots)
    figure, axes = panels(len(tested), 2.3, 0.24 * len(rows) + 1.2, columns=len(tested))
    for axis, name in zip(axes, tested, strict=True):
        own = [each for each in dots if each.tested_on == name]
        for each in own:
            _draw_row(axis, rows[each.trained_on, each.arm], each)
        for trained_on in dict.fromkeys(each.trained_on for each in own):
            _draw_reference(axis, rows, [each for each in own if each.trained_on == trained_on], dots[0].arm)
        axis.set_title(name)
        axis.set_xlabel('SRCC')
        axis.set_ylim(max(rows.values()) + 0.7, min(rows.values()) - 0.7)
        axis.set_yticks(list(rows.values()), [f'{arm}  ({trained_on})' if axis is axes[0] else '' for trained_on, arm in rows])
    figure.suptitle(f'{title}: each dot a seed, the tick their median; orange: trained on that set; gray: {dots[0].arm}')
    return save_png(figure, out)


def _rows(dots: Sequence[Dots]) -> dict[tuple[str, str], float]:
    """Return the height of each row, with a gap between the training sets."""
    rows: dict[tuple[str, str], float] = {}
    for gap, trained_on in enumerate(dict.fromkeys(each.trained_on for each in dots)):
        for arm in dict.fromkeys(each.arm for each in dots if each.trained_on == trained_on):
            rows[trained_on, arm] = len(rows) + 0.8 * gap
    return rows


def _draw_row(axis: 'Axes', place: float, dots: Dots) -> None:
    colour = ORANGE if dots.in_domain else BLUE
    axis.scatter(dots.values, np.full(len(dots.values), place), s=20, linewidths=1.1, edgecolors=colour,
                 facecolors=colour if dots.in_domain else PAPER, zorder=3)
    axis.plot([np.median(dots.values)] * 2, [place - 0.34, place + 0.34], color=colour, linewidth=2)


def _draw_reference(axis: 'Axes', rows: dict[tuple[str, str], float], members: Sequence[Dots], arm: str) -> None:
    reference = next((each for each in members if each.arm == arm), None)
    if reference is not None:
        places = [rows[each.trained_on, each.arm] for each in members]
        axis.plot([np.median(reference.values)] * 2, [min(places) - 0.4, max(places) + 0.4], color=GRAY, linewidth=0.9,
                  linestyle='--', zorder=1)
