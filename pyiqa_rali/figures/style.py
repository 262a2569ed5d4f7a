"""The one style of all figures: palette, panels, curve, scatter and bars, and how a figure becomes a file or part of a page."""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from xml.etree import ElementTree

import numpy as np

from pyiqa_rali.core.files import atomic_open

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arguments = ParamSpec('Arguments')
Drawn = TypeVar('Drawn')

INK, PAPER = '#101418', '#fefefd'  # unlike every other colour, because a page replaces them by its own
SERIES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7')  # these too; all colours are safe for colour-blind readers
BLUE, ORANGE, GREEN, PINK = SERIES
GRAY = '#777777'
PALETTE = (*SERIES, '#e69f00', '#56b4e9', GRAY)
STYLE = {'svg.fonttype': 'none', 'font.size': 9, 'font.family': 'sans-serif', 'text.color': INK, 'axes.labelcolor': INK,
         'axes.edgecolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'xtick.labelsize': 8, 'ytick.labelsize': 8,
         'axes.titlesize': 9.5, 'axes.labelsize': 8.5, 'legend.fontsize': 8, 'figure.titlesize': 10.5,
         'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True, 'axes.axisbelow': True, 'grid.alpha': 0.15,
         'grid.color': INK, 'legend.frameon': False, 'text.parse_math': False}  # a name with two $ in it is not a formula
COLUMNS = 4  # panels beside each other, at most
RESOLUTION = 110  # pixels per inch
MANY_POINTS = 40  # points of a curve from which on its running mean is drawn too
MOST_POINTS_OF_A_CURVE = 400
MOST_VECTOR_POINTS = 1500  # more points than that are drawn as pixels: a page stays small
_SVG = '{http://www.w3.org/2000/svg}'


def styled(draw: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """Return a function that draws in this style, whatever the user's settings of matplotlib."""
    @functools.wraps(draw)
    def inner(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Drawn:
        import matplotlib
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **keywords)
    return inner


def empty_figure(width: float, height: float) -> 'Figure':
    """Return a figure without panels; its size is in inches. It belongs to no window and need not be closed."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout='constrained')


def panels(count: int, width: float, height: float, columns: int = COLUMNS) -> tuple['Figure', list['Axes']]:
    """Return a figure and its panels (count,), from left to right and from top to bottom.

    Args:
        count: how many.
        width: of each, in inches.
        height: of each, in inches.
        columns: at most so many beside each other.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = empty_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


@styled
def save_png(figure: 'Figure', out: Path) -> Path:
    """Write a figure as PNG, atomically, and return the file."""
    with atomic_open(out, 'wb') as stream:
        figure.savefig(stream, format='png', facecolor='white', dpi=RESOLUTION)
    return out


@styled
def svg_and_png(figure: 'Figure') -> tuple[str, bytes]:
    """Return a figure as SVG whose colours follow the page that contains it, light or dark, and as PNG."""
    vector, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format='svg', transparent=True, dpi=150)
    figure.savefig(pixels, format='png', facecolor='white', dpi=RESOLUTION)
    return themed(vector.getvalue()), pixels.getvalue()


def themed(svg: str) -> str:
    """Return matplotlib's SVG for use inside a page: no metadata, no fixed size, the page's colours and fonts."""
    ElementTree.register_namespace('', _SVG[1:-1])
    ElementTree.register_namespace('xlink', 'http://www.w3.org/1999/xlink')
    root = ElementTree.fromstring(svg.encode())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.removeprefix(_SVG) in ('metadata', 'desc'):
                parent.remove(child)
    for size in ('width', 'height'):
        root.attrib.pop(size, None)
    text = ElementTree.tostring(root, encoding='unicode')
    text = text.replace(INK, 'currentColor').replace(PAPER, 'var(--paper)')
    for position, colour in enumerate(SERIES, start=1):
        text = text.replace(colour, f'var(--series-{position})')
    return re.sub(r'font-family: [^;"]*; ?', '', text)


def curve(axis: 'Axes', points: np.ndarray) -> None:
    """Draw one curve, thin, and when it is long its running mean on top.

    Args:
        axis: the panel.
        points: (n, 2), rising in the first column; many are drawn as the means of equal groups.
    """
    if len(points) > MOST_POINTS_OF_A_CURVE:
        points = np.array([group.mean(axis=0) for group in np.array_split(points, MOST_POINTS_OF_A_CURVE)])
    many = len(points) > MANY_POINTS
    axis.plot(points[:, 0], points[:, 1], color=BLUE, linewidth=1, alpha=0.45 if many else 1,
              marker='' if len(points) > 14 else '.')
    if many:
        window = max(2, len(points) // 20)
        smooth = np.convolve(points[:, 1], np.ones(window) / window, mode='valid')
        axis.plot(points[window - 1:, 0], smooth, color=ORANGE, linewidth=1.6)


def scatter(axis: 'Axes', x: np.ndarray, y: np.ndarray, span: Sequence[float] | None = None) -> None:
    """Draw points, paler when there are more of them.

    Args:
        axis: the panel.
        x: (n,).
        y: (n,).
        span: both axes have this range and one length, and their diagonal is drawn; None leaves the axes to the points.
    """
    axis.scatter(x, y, s=14, color=BLUE, linewidths=0, alpha=float(np.clip(8 / max(1, len(x)) ** 0.5, 0.1, 0.8)),
                 rasterized=len(x) > MOST_VECTOR_POINTS)
    if span is not None:
        margin = 0.03 * (span[1] - span[0] or 1)
        ends = span[0] - margin, span[1] + margin
        axis.plot(ends, ends, color=INK, linewidth=0.8, linestyle='--', alpha=0.6)
        axis.set(xlim=ends, ylim=ends, aspect='equal')


def bars(axis: 'Axes', values: Mapping[str, float], texts: Sequence[str] = (), colours: str | Sequence[str] = BLUE) -> None:
    """Draw horizontal bars from top to bottom.

    Args:
        axis: the panel.
        values: length of each bar by its name.
        texts: what is written after each bar.
        colours: of each, or of all.
    """
    places = np.arange(len(values))
    drawn = axis.barh(places, list(values.values()), color=colours, height=0.7)
    axis.set_yticks(places, list(values))
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.grid(axis='y', visible=False)
    if texts:
        axis.bar_label(drawn, labels=list(texts), padding=3, fontsize=7.5,
                       bbox={'facecolor': PAPER, 'edgecolor': 'none', 'pad': 0.4})


def logarithmic(axis: 'Axes', *sides: str) -> None:
    """Make the named axes ('x', 'y') logarithmic, with plain numbers on them."""
    from matplotlib.ticker import LogFormatter
    for side in sides:
        of_side = axis.xaxis if side == 'x' else axis.yaxis
        axis.set(**{f'{side}scale': 'log'})
        of_side.set_major_formatter(LogFormatter())
        of_side.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.4)))  # numbers in between where there are few decades


def better(lower: bool) -> str:
    """Return which end of a scale is the good one, in words."""
    return 'lower is better' if lower else 'higher is better'


def without_ticks(axis: 'Axes') -> None:
    """Remove ticks, grid and frame from a panel that shows a picture or a map."""
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
