"""Figures of explanations, as PNG: one image's, and the measures over many."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyiqa_rali.data.picture_measures.fault_types import ASPECT_OF_FAULTS
from pyiqa_rali.figures.quality_maps import MappedPicture, paint_map
from pyiqa_rali.figures.style import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    bars,
    better,
    empty_figure,
    save_png,
    scatter,
    styled,
    without_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VOTES, LEAST_SHARE = 5, 0.005
WRONG = 0.5  # an aspect below is drawn as wrong, with its fault
TEXT_WIDTH = 150
PROMPT_WIDTH, PROMPT_LINE = 110, 52  # characters of a prompt, and of a line below the picture


class Vote(Protocol):
    """What is drawn of a class of distortion."""

    @property
    def distortion(self) -> str:
        """Its name."""

    @property
    def share(self) -> float:
        """Of the votes."""

    @property
    def level(self) -> float | None:
        """Its strength, None where the texts do not say."""


class NearText(Protocol):
    """What is drawn of a text of the bank."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def cosine(self) -> float:
        """With the image."""


class Explained(Protocol):
    """What is drawn of an explanation; `pyiqa_rali.model.explanation.Explanation` says what the names mean.

    The members are properties because the explanation itself cannot be changed.
    """

    @property
    def score(self) -> float:
        """Of the image."""

    @property
    def uncertainty(self) -> float:
        """In the unit of the score."""

    @property
    def weights(self) -> Sequence[float]:
        """Of the basis vectors."""

    @property
    def basis_scores(self) -> Sequence[float]:
        """In the order of the weights."""

    @property
    def votes(self) -> Sequence[Vote]:
        """By falling share."""

    @property
    def texts(self) -> Sequence[NearText]:
        """By falling cosine."""

    @property
    def aspects(self) -> Mapping[str, float]:
        """How good each aspect is, in [0, 1]; empty where nothing tells."""

    @property
    def faults(self) -> Mapping[str, float]:
        """How clear each fault is, in [0, 1]."""


@dataclass(frozen=True)
class Beside:
    """What is drawn beside an explanation, where it is known.

    Attributes:
        interval: ends of an interval around the score.
        coverage: share of images whose MOS the interval holds.
        unlike: whether the picture is unlike those on which the interval was calibrated.
        mapped: the picture with its map of quality.
        aligned: of a generated picture, its prompt and the alignment with it.
    """

    interval: tuple[float, float] | None = None
    coverage: float = 0.9
    unlike: bool = False
    mapped: MappedPicture | None = None
    aligned: tuple[str, float] | None = None


@styled
def draw_explanation(pixels: np.ndarray, found: Explained, out: Path, mos_range: tuple[float, float], lower_better: bool,
                     beside: Beside | None = None, name: str | None = None) -> None:
    """Draw an image with its explanation: the score and how sure it is, where and what is wrong, and why.

    Args:
        pixels: uint8 (H, W, 3).
        found: its explanation.
        out: the PNG.
        mos_range: ends of the scale.
        lower_better: direction of the score.
        beside: interval and map; None draws neither.
        name: of the picture, for the title; None takes the PNG's.
    """
    beside = beside or Beside()
    figure = empty_figure(12, 9)
    rows = figure.add_gridspec(4, 1, height_ratios=(0.7, 2.1, 1.5, 0.7))
    _score_on_scale(figure.add_subplot(rows[0]), found, mos_range, lower_better, beside, name or out.stem)
    # the aspects' names and values need as much room as a picture
    shown = rows[1].subgridspec(1, 3 if beside.mapped else 2, width_ratios=(1, 1.12, 0.85) if beside.mapped else (1, 1))
    picture = figure.add_subplot(shown[0])
    picture.imshow(pixels)
    picture.set_title('picture')
    without_ticks(picture)
    if beside.aligned is not None:
        prompt, alignment = beside.aligned
        shown_prompt = textwrap.shorten(prompt, PROMPT_WIDTH, placeholder=' ...', break_on_hyphens=False)
        picture.set_xlabel(textwrap.fill(f'alignment {alignment:.2f} with "{shown_prompt}"', PROMPT_LINE))
    if beside.mapped is not None:
        where = figure.add_subplot(shown[1])
        painted = paint_map(where, beside.mapped, mos_range, lower_better)
        where.set_title('where: the score of each place')
        figure.colorbar(painted, ax=where, shrink=0.7, pad=0.02).solids.set_alpha(1)
    _aspects(figure.add_subplot(shown[-1]), found)
    reasons = rows[2].subgridspec(1, 2)
    _votes(figure.add_subplot(reasons[0]), found)
    _basis(figure.add_subplot(reasons[1]), found)
    _texts(figure.add_subplot(rows[3]), found)
    save_png(figure, out)


def _score_on_scale(axis: 'Axes', found: Explained, mos_range: tuple[float, float], lower_better: bool, beside: Beside,
                    name: str) -> None:
    """Draw the score as a mark on the scale, in large letters, with its interval or, without one, the spread."""
    low, high = mos_range
    ends, meaning = beside.interval, f'interval of {beside.coverage:.0%}'
    if ends is None:
        ends, meaning = (found.score - found.uncertainty, found.score + found.uncertainty), 'spread of the basis scores'
    axis.axvspan(low, high, ymin=0.08, ymax=0.5, color=GRAY, alpha=0.15, linewidth=0)
    axis.plot(ends, (0, 0), color=ORANGE, linewidth=7, alpha=0.55, solid_capstyle='butt')
    axis.plot(found.score, 0, 'o', color=BLUE, markersize=13)
    margin = 0.04 * (high - low)
    axis.set_xlim(min(low, ends[0]) - margin, max(high, ends[1]) + margin)
    axis.set(ylim=(-0.7, 1.7), yticks=[], xticks=np.linspace(low, high, 5))
    axis.annotate(f'{found.score:.2f}', (found.score, 0.72), ha='center', fontsize=19, fontweight='bold', color=BLUE)
    told = f'{meaning}: {ends[0]:.2f} to {ends[1]:.2f}'
    if beside.unlike:
        told += '; unlike the pictures of its calibration'
    axis.set_title(f'{name}: score {found.score:.2f} ({better(lower_better)}); {told}', loc='left')
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)


def _aspects(axis: 'Axes', found: Explained) -> None:
    """Draw a bar for each aspect, orange where something is wrong."""
    axis.set_title('what: how good each aspect is')
    if not found.aspects:
        axis.text(0.5, 0.5, 'the checkpoint has no diagnosis\n(pyiqa-rali add-diagnosis)', ha='center', va='center',
                  transform=axis.transAxes)
        axis.axis('off')
        return
    texts = [f'{value:.2f}{_worst_fault(found, name)}' for name, value in found.aspects.items()]
    bars(axis, dict(found.aspects), texts, [ORANGE if value < WRONG else BLUE for value in found.aspects.values()])
    axis.set(xlim=(0, 1.45), xticks=[0, 0.5, 1])


def _worst_fault(found: Explained, aspect: str) -> str:
    """Return the fault that an aspect that is wrong has, to be written after its value."""
    if found.aspects[aspect] >= WRONG:
        return ''
    own = {name: value for name, value in found.faults.items() if ASPECT_OF_FAULTS.get(name) == aspect}
    return f'  {max(own, key=lambda name: own[name])}' if own else ''


def _votes(axis: 'Axes', found: Explained) -> None:
    axis.set_title('distortions, by their share of the vote')
    votes = [vote for vote in found.votes[:VOTES] if vote.share >= LEAST_SHARE] or found.votes[:1]
    if not votes:
        axis.text(0.5, 0.5, 'the text bank does not say what its texts name', ha='center', transform=axis.transAxes)
        axis.axis('off')
        return
    texts = [f'{vote.share:.0%}' + ('' if vote.level is None else f'   level {vote.level:.1f}') for vote in votes]
    bars(axis, {vote.distortion.replace('_', ' '): vote.share for vote in votes}, texts)
    axis.set(xlim=(0, 1.25), xticks=np.linspace(0, 1, 6))
    axis.set_ylim(max(len(votes), 3) - 0.4, -0.6)


def _basis(axis: 'Axes', found: Explained) -> None:
    axis.vlines(found.basis_scores, 0, found.weights, color=BLUE, linewidth=1.6)
    axis.plot(found.basis_scores, found.weights, '.', color=BLUE, markersize=4)
    axis.axvline(found.score, color=ORANGE, linewidth=1.5, linestyle='--')
    axis.set_ylim(bottom=0)
    axis.set(title='why: weight of each basis vector at its score', ylabel='weight')


def _texts(axis: 'Axes', found: Explained) -> None:
    axis.axis('off')
    axis.set_title('nearest reasoning texts of the bank, with their cosine', loc='left')
    lines = [textwrap.shorten(f'{near.cosine:.2f}   {near.text}', TEXT_WIDTH, placeholder=' ...') for near in found.texts]
    axis.text(0, 0.98, '\n'.join(lines), va='top', fontsize=9, transform=axis.transAxes, linespacing=1.35)


@styled
def draw_measures(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw accuracy by type, how far shares of votes can be trusted, and the uncertainty against the error of the score.

    Args:
        found: `by_type` (accuracy and `taken_for` of each type), `vote_calibration` (bins and `expected_error`) and `score`
            (`uncertainty_srcc`).
        rows: `score`, `mos` and `uncertainty` of each picture.
        out: the PNG.
    """
    of_type = dict(sorted(found['by_type'].items(), key=lambda item: -item[1]['accuracy']))
    figure = empty_figure(12, max(4.5, 0.23 * len(of_type)))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    axis = figure.add_subplot(grid[:, 0])
    texts = [f'else {each["taken_for"].replace("_", " ")}' if each['taken_for'] and each['accuracy'] < 0.75 else ''
             for each in of_type.values()]
    bars(axis, {name.replace('_', ' '): each['accuracy'] for name, each in of_type.items()}, texts)
    axis.set(xlim=(0, 1), title='share named right, and what the others are taken for most')
    _reliability(figure.add_subplot(grid[0, 1]), found['vote_calibration'])
    axis = figure.add_subplot(grid[1, 1])
    scores, mos, uncertainty = (np.array([row[name] for row in rows]) for name in ('score', 'mos', 'uncertainty'))
    scatter(axis, uncertainty, np.abs(scores - mos))
    axis.set(title=f'uncertainty and error of the score, SRCC {found["score"]["uncertainty_srcc"]:.2f}',
             xlabel='uncertainty (spread of the basis scores)', ylabel='|score - MOS|')
    save_png(figure, out)


def _reliability(axis: 'Axes', votes: Mapping[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle='--', alpha=0.6)
    axis.plot([item['share'] for item in votes['bins']], [item['accuracy'] for item in votes['bins']], 'o-', color=BLUE)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), title=f'largest vote: calibration error {votes["expected_error"]:.3f}',
             xlabel='share of the vote', ylabel='named right')
