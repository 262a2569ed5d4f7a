"""Figures as SVG whose colours follow the page, light or dark, and as PNG."""

import io
import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import numpy as np

INK, PAPER = '#101418', '#fefefd'  # no other colour is like them: they are replaced by the page's
SERIES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7')  # safe for colour-blind readers
MOST_VECTOR_POINTS = 1500  # more points than that are drawn as pixels: the page stays small
MOST_POINTS_OF_A_CURVE = 400
STYLE = {'svg.fonttype': 'none', 'font.size': 9, 'font.family': 'sans-serif', 'text.color': INK, 'axes.labelcolor': INK,
         'axes.edgecolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.spines.top': False,
         'axes.spines.right': False, 'axes.grid': True, 'grid.alpha': 0.25, 'grid.color': INK, 'legend.frameon': False,
         'axes.titlesize': 10, 'figure.constrained_layout.use': True}
_SVG = '{http://www.w3.org/2000/svg}'
_DROPPED = ('metadata', 'desc')


def drawn(draw: Callable, width: float = 6.4, height: float = 4.0, panels: tuple[int, int] = (1, 1)) -> tuple[str, bytes]:
    """Draw with matplotlib and return (SVG, PNG).

    Args:
        draw: takes the array of axes, (rows, columns).
        width: in inches.
        height: in inches.
        panels: rows and columns.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(*panels, figsize=(width, height), squeeze=False)
        draw(axes)
        vector, pixels = io.StringIO(), io.BytesIO()
        figure.savefig(vector, format='svg', transparent=True, dpi=150)
        figure.savefig(pixels, format='png', facecolor='white', dpi=110)
        pyplot.close(figure)
    return themed(vector.getvalue()), pixels.getvalue()


def themed(svg: str) -> str:
    """Return matplotlib's SVG for use inside a page: no metadata, no fixed size, the page's colours and fonts."""
    ElementTree.register_namespace('', _SVG[1:-1])
    ElementTree.register_namespace('xlink', 'http://www.w3.org/1999/xlink')
    root = ElementTree.fromstring(svg.encode())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(_SVG) in _DROPPED or child.tag == f'{_SVG}metadata':
                parent.remove(child)
    for size in ('width', 'height'):
        root.attrib.pop(size, None)
    text = ElementTree.tostring(root, encoding='unicode')
    text = text.replace(INK, 'currentColor').replace(PAPER, 'var(--paper)')
    for position, colour in enumerate(SERIES, start=1):
        text = text.replace(colour, f'var(--series-{position})')
    return re.sub(r'font-family: [^;"]*; ?', '', text)


def curves(records: dict[str, list[dict[str, float]]]) -> tuple[str, bytes] | None:
    """Draw every column of every record against its step; None when there is nothing to draw.

    Args:
        records: rows with 'step', by name of the record; a row may lack some columns.
    """
    panels = [(name, column, _points(rows, column)) for name, rows in records.items()
              for column in dict.fromkeys(key for row in rows for key in row) if column != 'step']
    panels = [panel for panel in panels if len(panel[2])]
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)

    def draw(axes: np.ndarray) -> None:
        axes = axes.ravel()
        for axis in axes[len(panels):]:
            axis.set_visible(False)
        for axis, (name, column, points) in zip(axes, panels, strict=False):
            _curve(axis, points)
            axis.set_title(f'{name}: {column}')
    return drawn(draw, 3.1 * columns, 2.3 * lines, (lines, columns))


def _points(rows: list[dict[str, float]], column: str) -> np.ndarray:
    points = np.array([(row['step'], row[column]) for row in rows if np.isfinite(row.get(column, np.nan))])
    if len(points) > MOST_POINTS_OF_A_CURVE:  # means of equal groups of steps
        groups = np.array_split(points, MOST_POINTS_OF_A_CURVE)
        points = np.array([group.mean(axis=0) for group in groups])
    return points


def _curve(axis, points: np.ndarray) -> None:
    many = len(points) > 40
    axis.plot(points[:, 0], points[:, 1], color=SERIES[0], linewidth=1, alpha=0.45 if many else 1,
              marker='' if len(points) > 14 else '.')
    if many:
        window = max(2, len(points) // 20)
        smooth = np.convolve(points[:, 1], np.ones(window) / window, mode='valid')
        axis.plot(points[window - 1:, 0], smooth, color=SERIES[1], linewidth=1.6)


def scatter(scores: np.ndarray, mos: np.ndarray, chosen: dict[str, Sequence[tuple[int, str]]], xlabel: str,
            ylabel: str, diagonal: bool) -> tuple[str, bytes]:
    """Draw n scores against n MOS; chosen points lead to the pictures behind them.

    Args:
        scores: (n,).
        mos: (n,).
        chosen: positions and anchors by kind of case.
        xlabel: of the MOS.
        ylabel: of the scores.
        diagonal: whether both have one scale, on which a perfect metric's points lie on the diagonal.
    """
    def draw(axes) -> None:
        axis = axes[0, 0]
        axis.scatter(mos, scores, s=14, color=SERIES[0], linewidths=0, alpha=float(np.clip(8 / len(scores) ** 0.5, 0.15, 0.8)),
                     rasterized=len(scores) > MOST_VECTOR_POINTS)
        if diagonal:
            ends = [min(mos.min(), scores.min()), max(mos.max(), scores.max())]
            axis.plot(ends, ends, color=INK, linewidth=0.8, linestyle='--', alpha=0.6)
        for (kind, points), colour, marker in zip(chosen.items(), (SERIES[2], SERIES[3], SERIES[1]), 'osD', strict=False):
            if points:
                positions = [position for position, _ in points]
                found = axis.scatter(mos[positions], scores[positions], s=46, color=colour, marker=marker, edgecolors=PAPER,
                                     linewidths=0.8, label=kind, zorder=3)
                found.set_urls([f'#{anchor}' for _, anchor in points])
        if any(chosen.values()):
            axis.legend(loc='best', fontsize=8)
        axis.set(xlabel=xlabel, ylabel=ylabel)
    return drawn(draw, 5.6, 4.6)


def histogram(values: np.ndarray, xlabel: str, ylabel: str, marks: dict[str, np.ndarray] | None = None) -> tuple[str, bytes]:
    """Draw the distribution of values, and others beside it as lines.

    Args:
        values: (n,), drawn as bars.
        xlabel: of the values.
        ylabel: of the counts.
        marks: further values by name, scaled to the same area.
    """
    def draw(axes) -> None:
        axis = axes[0, 0]
        everything = np.concatenate([values, *(marks or {}).values()])
        edges = np.histogram_bin_edges(everything, bins=min(30, max(5, len(values) // 4)))
        axis.hist(values, edges, color=SERIES[0], alpha=0.75, label=ylabel)
        for (name, other), colour in zip((marks or {}).items(), SERIES[1:], strict=False):
            weights = np.full(len(other), len(values) / max(1, len(other)))
            axis.hist(other, edges, weights=weights, histtype='step', color=colour, linewidth=1.6, label=name)
        if marks:
            axis.legend(fontsize=8, loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
        axis.set(xlabel=xlabel, ylabel=ylabel)
    return drawn(draw, 5.6, 3.4)
