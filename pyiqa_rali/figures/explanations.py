"""Pictures of explanations as PNG: one image's, and the measures over many."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.figures.plots import BLUE, GRAY, ORANGE, save_figure

VOTES, LEAST_SHARE = 6, 0.005
TEXT_WIDTH = 118


def draw_explanation(pixels: np.ndarray, found: Any, out: Path, mos_range: tuple[float, float], lower_better: bool) -> None:
    """Draw an image with its explanation.

    Args:
        pixels: uint8 (H, W, 3).
        found: its `Explanation`.
        out: the PNG.
        mos_range: ends of the scale.
        lower_better: direction of the score.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure = pyplot.figure(figsize=(11, 8), layout='constrained')
    grid = figure.add_gridspec(3, 2, height_ratios=(1.3, 1, 0.6), width_ratios=(1.1, 1))
    picture = figure.add_subplot(grid[0, 0])
    picture.imshow(pixels)
    picture.set_title(out.stem, fontsize=10, parse_math=False)
    picture.axis('off')
    _score_on_scale(figure.add_subplot(grid[0, 1]), found, mos_range, lower_better)
    _votes(figure.add_subplot(grid[1, 0]), found)
    _basis(figure.add_subplot(grid[1, 1]), found)
    _texts(figure.add_subplot(grid[2, :]), found)
    save_figure(figure, out)


def _score_on_scale(axis, found: Any, mos_range: tuple[float, float], lower_better: bool) -> None:
    low, high = mos_range
    axis.axvspan(low, high, ymin=0.3, ymax=0.75, color='#eeeeee')
    axis.errorbar(found.score, 0, xerr=found.uncertainty, color=ORANGE, linewidth=2, capsize=5)
    axis.plot(found.score, 0, 'o', color=BLUE, markersize=11)
    axis.annotate(f'{found.score:.2f}', (found.score, 0), textcoords='offset points', xytext=(0, 14), ha='center', fontsize=15)
    margin = 0.08 * (high - low)
    axis.set_xlim(min(low, found.score - found.uncertainty) - margin, max(high, found.score + found.uncertainty) + margin)
    axis.set(ylim=(-1, 1), yticks=[], title=f'score ({"lower" if lower_better else "higher"} is better)')
    axis.set_xlabel(f'gray: range of the MOS; bar: spread of the basis scores, {found.uncertainty:.2f} to each side',
                    fontsize=8)
    for side in ('left', 'right', 'top'):
        axis.spines[side].set_visible(False)


def _votes(axis, found: Any) -> None:
    axis.set_title('distortions, by the vote of the texts', fontsize=10)
    votes = [vote for vote in found.votes[:VOTES] if vote.share >= LEAST_SHARE] or found.votes[:1]
    if not votes:
        axis.text(0.5, 0.5, 'the text bank does not say what its texts name', ha='center', transform=axis.transAxes)
        axis.axis('off')
        return
    places = np.arange(len(votes))
    axis.barh(places, [vote.share for vote in votes], color=BLUE, height=0.65)
    axis.set_ylim(max(len(votes), 3) - 0.4, -0.6)
    axis.set_yticks(places, [vote.distortion.replace('_', ' ') for vote in votes], fontsize=9)
    for place, vote in zip(places, votes, strict=True):
        level = '' if vote.level is None else f'level {vote.level:.1f}'
        inside = vote.share > 0.6
        axis.text(vote.share + (-0.02 if inside else 0.02), place, f'{vote.share:.0%}   {level}', va='center',
                  ha='right' if inside else 'left', color='white' if inside else 'black', fontsize=9)
    axis.set(xlim=(0, 1))
    axis.set_xlabel('share of the vote', fontsize=8)


def _basis(axis, found: Any) -> None:
    axis.set_title('basis: weight of each basis vector at its score', fontsize=10)
    axis.vlines(found.basis_scores, 0, found.weights, color=BLUE, linewidth=1.6)
    axis.plot(found.basis_scores, found.weights, '.', color=BLUE, markersize=4)
    axis.axvline(found.score, color=ORANGE, linewidth=1.5, linestyle='--')
    axis.set_ylim(bottom=0)
    axis.set_xlabel('basis score (dashed: the score, their weighted mean)', fontsize=8)
    axis.set_ylabel('weight', fontsize=8)
    axis.grid(alpha=0.25)


def _texts(axis, found: Any) -> None:
    axis.axis('off')
    axis.set_title('nearest reasoning texts of the bank, with their cosine', fontsize=10, loc='left')
    lines = [textwrap.fill(f'{near.cosine:.2f}   {near.text}', TEXT_WIDTH, subsequent_indent=' ' * 9) for near in found.texts]
    axis.text(0, 0.98, '\n'.join(lines), va='top', fontsize=9.5, transform=axis.transAxes, linespacing=1.35,
              parse_math=False)


def draw_measures(found: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> None:
    """Draw accuracy by type, how far shares of votes can be trusted, and the uncertainty beside the error of the score.

    Args:
        found: what `measure_explanations` returned.
        rows: the pictures that it was given.
        out: the PNG.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    kinds = sorted(found['by_type'], key=lambda name: found['by_type'][name]['accuracy'])
    figure = pyplot.figure(figsize=(12, max(4.5, 0.23 * len(kinds))), layout='constrained')
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    _by_type(figure.add_subplot(grid[:, 0]), kinds, found['by_type'])
    _reliability(figure.add_subplot(grid[0, 1]), found['vote_calibration'])
    axis = figure.add_subplot(grid[1, 1])
    error = np.abs([row['score'] - row['mos'] for row in rows])
    axis.scatter([row['uncertainty'] for row in rows], error, s=9, color=BLUE, alpha=0.25, linewidths=0)
    axis.set_title(f'uncertainty and error of the score, SRCC {found["score"]["uncertainty_srcc"]:.2f}', fontsize=10)
    axis.set_xlabel('uncertainty (spread of the basis scores)', fontsize=8)
    axis.set_ylabel('|score - MOS|', fontsize=8)
    axis.grid(alpha=0.25)
    save_figure(figure, out)


def _by_type(axis, kinds: list[str], by_type: dict[str, dict[str, Any]]) -> None:
    places = np.arange(len(kinds))
    axis.barh(places, [by_type[name]['accuracy'] for name in kinds], color=BLUE, height=0.7)
    axis.set_yticks(places, [name.replace('_', ' ') for name in kinds], fontsize=8)
    for place, name in zip(places, kinds, strict=True):
        other, accuracy = by_type[name]['taken_for'], by_type[name]['accuracy']
        if other and accuracy < 0.75:
            axis.text(accuracy + 0.01, place, f'else {other.replace("_", " ")}', va='center', fontsize=7.5, color=GRAY)
    axis.set(xlim=(0, 1), ylim=(-0.6, len(kinds) - 0.4))
    axis.set_title('share named right, and what the others are taken for most', fontsize=10)
    axis.grid(alpha=0.25, axis='x')


def _reliability(axis, votes: dict[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle='--')
    axis.plot([item['share'] for item in votes['bins']], [item['accuracy'] for item in votes['bins']], 'o-', color=BLUE)
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title(f'largest vote: calibration error {votes["expected_error"]:.3f}', fontsize=10)
    axis.set_xlabel('share of the vote', fontsize=8)
    axis.set_ylabel('named right', fontsize=8)
    axis.grid(alpha=0.25)
