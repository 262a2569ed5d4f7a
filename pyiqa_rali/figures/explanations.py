"""Figures of explanations, as PNG: one image's, and the measures over many."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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

VOTES, LEAST_SHARE = 6, 0.005
TEXT_WIDTH = 118


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


@styled
def draw_explanation(pixels: np.ndarray, found: Explained, out: Path, mos_range: tuple[float, float],
                     lower_better: bool) -> None:
    """Draw an image with its explanation.

    Args:
        pixels: uint8 (H, W, 3).
        found: its explanation.
        out: the PNG.
        mos_range: ends of the scale.
        lower_better: direction of the score.
    """
    figure = empty_figure(11, 8)
    grid = figure.add_gridspec(3, 2, height_ratios=(1.3, 1, 0.6), width_ratios=(1.1, 1))
    picture = figure.add_subplot(grid[0, 0])
    picture.imshow(pixels)
    picture.set_title(out.stem)
    without_ticks(picture)
    _score_on_scale(figure.add_subplot(grid[0, 1]), found, mos_range, lower_better)
    _votes(figure.add_subplot(grid[1, 0]), found)
    _basis(figure.add_subplot(grid[1, 1]), found)
    _texts(figure.add_subplot(grid[2, :]), found)
    save_png(figure, out)


def _score_on_scale(axis: 'Axes', found: Explained, mos_range: tuple[float, float], lower_better: bool) -> None:
    low, high = mos_range
    axis.axvspan(low, high, ymin=0.3, ymax=0.75, color=GRAY, alpha=0.15, linewidth=0)
    axis.errorbar(found.score, 0, xerr=found.uncertainty, color=ORANGE, linewidth=2, capsize=5)
    axis.plot(found.score, 0, 'o', color=BLUE, markersize=11)
    axis.annotate(f'{found.score:.2f}', (found.score, 0), textcoords='offset points', xytext=(0, 14), ha='center', fontsize=15)
    margin = 0.08 * (high - low)
    axis.set_xlim(min(low, found.score - found.uncertainty) - margin, max(high, found.score + found.uncertainty) + margin)
    axis.set(ylim=(-1, 1), yticks=[], title=f'score ({better(lower_better)})',
             xlabel=f'gray: range of the MOS; bar: spread of the basis scores, {found.uncertainty:.2f} to each side')
    axis.spines['left'].set_visible(False)


def _votes(axis: 'Axes', found: Explained) -> None:
    axis.set_title('distortions, by the vote of the texts')
    votes = [vote for vote in found.votes[:VOTES] if vote.share >= LEAST_SHARE] or found.votes[:1]
    if not votes:
        axis.text(0.5, 0.5, 'the text bank does not say what its texts name', ha='center', transform=axis.transAxes)
        axis.axis('off')
        return
    texts = [f'{vote.share:.0%}' + ('' if vote.level is None else f'   level {vote.level:.1f}') for vote in votes]
    bars(axis, {vote.distortion.replace('_', ' '): vote.share for vote in votes}, texts)
    axis.set(xlim=(0, 1.25), xticks=np.linspace(0, 1, 6), xlabel='share of the vote')
    axis.set_ylim(max(len(votes), 3) - 0.4, -0.6)


def _basis(axis: 'Axes', found: Explained) -> None:
    axis.vlines(found.basis_scores, 0, found.weights, color=BLUE, linewidth=1.6)
    axis.plot(found.basis_scores, found.weights, '.', color=BLUE, markersize=4)
    axis.axvline(found.score, color=ORANGE, linewidth=1.5, linestyle='--')
    axis.set_ylim(bottom=0)
    axis.set(title='basis: weight of each basis vector at its score', ylabel='weight',
             xlabel='basis score (dashed: the score, their weighted mean)')


def _texts(axis: 'Axes', found: Explained) -> None:
    axis.axis('off')
    axis.set_title('nearest reasoning texts of the bank, with their cosine', loc='left')
    lines = [textwrap.fill(f'{near.cosine:.2f}   {near.text}', TEXT_WIDTH, subsequent_indent=' ' * 9) for near in found.texts]
    axis.text(0, 0.98, '\n'.join(lines), va='top', fontsize=9.5, transform=axis.transAxes, linespacing=1.35)


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
