"""Figures of an ablation, as PNG: variants side by side, and a curve for each sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_rali.figures.style import BLUE, GRAY, ORANGE, panels, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Repeats:
    """What is drawn of one variant.

    Attributes:
        name: of the variant.
        group: the comparison that it belongs to.
        value: the swept option's value; None outside sweeps.
        values: (repeats,) of the metric.
        paper: the paper's value, where there is one.
    """

    name: str
    group: str
    value: Any
    values: np.ndarray
    paper: float | None = None


@styled
def draw_ablation(rows: Sequence[Repeats], out: Path, metric: str, paper_name: str) -> None:
    """Draw each variant's repeats and their mean, with the paper's values on a separate axis beside them.

    Args:
        rows: the variants, the reference first.
        out: the PNG.
        metric: which one.
        paper_name: what the paper's values are.
    """
    with_paper = any(row.paper is not None for row in rows)
    figure, axes = panels(1 + with_paper, 4.6, 0.42 * len(rows) + 1.3)
    places = np.arange(len(rows))[::-1]
    axis = axes[0]
    for place, row in zip(places, rows, strict=True):
        axis.scatter(row.values, np.full(len(row.values), place), s=22, color=BLUE, alpha=0.5, linewidths=0)
        axis.plot([row.values.mean()] * 2, [place - 0.28, place + 0.28], color=ORANGE, linewidth=2)
    axis.axvline(rows[0].values.mean(), color=GRAY, linewidth=1, linestyle='--')
    axis.set_title(f'measured: {metric.upper()} of each repeat, and the mean')
    if with_paper:
        for place, row in zip(places, rows, strict=True):
            if row.paper is not None:
                axes[1].plot([row.paper] * 2, [place - 0.28, place + 0.28], color=GRAY, linewidth=3)
        axes[1].set_title(paper_name)
    _same_span(axes)
    for position, each in enumerate(axes):
        each.set_yticks(places, [row.name for row in rows] if position == 0 else [])
        each.set_ylim(-0.6, len(rows) - 0.4)
    save_png(figure, out)


def _same_span(axes: Sequence['Axes']) -> None:
    """Make a step to the right mean the same on every axis."""
    limits = [axis.get_xlim() for axis in axes]
    half = max(high - low for low, high in limits) / 2
    for axis, (low, high) in zip(axes, limits, strict=True):
        axis.set_xlim((low + high) / 2 - half, (low + high) / 2 + half)


@styled
def draw_sweeps(rows: Sequence[Repeats], out: Path, metric: str) -> None:
    """Draw one panel per sweep: repeats, mean and standard deviation against the option's value; the reference dashed.

    Args:
        rows: all rows, the reference first.
        out: the PNG.
        metric: which one.
    """
    groups = [group for group in dict.fromkeys(row.group for row in rows) if group != rows[0].group]
    if not groups:
        return
    figure, axes = panels(len(groups), 3.3, 2.9)
    for axis, group in zip(axes, groups, strict=True):
        members = [row for row in rows if row.group == group]
        places, labels, scale = _places([row.value for row in members])
        order = np.argsort(places)
        for place, row in zip(places, members, strict=True):
            axis.scatter(np.full(len(row.values), place), row.values, s=14, color=BLUE, alpha=0.45, linewidths=0)
        means = np.array([row.values.mean() for row in members])[order]
        spreads = np.array([row.values.std(ddof=1) if len(row.values) > 1 else 0.0 for row in members])[order]
        axis.errorbar(np.array(places)[order], means, spreads, color=ORANGE, linewidth=1.4, capsize=3)
        axis.axhline(rows[0].values.mean(), color=GRAY, linewidth=1, linestyle='--')
        axis.set_xscale(scale)
        axis.set_xticks(places, labels)
        axis.minorticks_off()
        axis.set(title=group, ylabel=metric.upper())
    low, high = min(axis.get_ylim()[0] for axis in axes), max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
    figure.suptitle(f'dashed: {rows[0].name}; bars: standard deviation', fontsize=9)
    save_png(figure, out)


def _places(values: Sequence[Any]) -> tuple[list[float], list[str], str]:
    """Return the places of values on an axis, their labels, and its scale: logarithmic for positive numbers."""
    labels = ['~' if value is None else f'{value:g}' if isinstance(value, int | float) else str(value) for value in values]
    if all(isinstance(value, int | float) and value > 0 for value in values):
        return [float(value) for value in values], labels, 'log'
    return [float(place) for place in range(len(values))], labels, 'linear'
