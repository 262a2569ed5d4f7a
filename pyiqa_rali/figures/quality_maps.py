"""Figures of maps of quality: where a picture is good and where it is bad, laid over the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyiqa_rali.figures.style import BLUE, ORANGE, better, empty_figure, save_png, styled, without_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LEAST_SPAN = 0.1  # of the scale: what differs by less is not drawn as if it were much
OPACITY = 0.6
PALE = '#f2efe6'  # between the ends


@dataclass(frozen=True)
class MappedPicture:
    """A picture with its map.

    Attributes:
        pixels: uint8 (H, W, 3).
        values: (H', W') the score of each position.
        region: (top, left, bottom, right) in pixels, the part of the picture that the map covers evenly.
        title: written above.
    """

    pixels: np.ndarray
    values: np.ndarray
    region: tuple[float, float, float, float]
    title: str = ''


def span_of(values: np.ndarray, mos_range: tuple[float, float]) -> tuple[float, float]:
    """Return what the colours reach from and to: the map's own ends, and `LEAST_SPAN` of the scale at least.

    Example:
        >>> span_of(np.array([[2.0, 4.0]]), (1, 5)), span_of(np.array([[3.0, 3.0]]), (1, 5))
        ((2.0, 4.0), (2.8, 3.2))
    """
    low, high = float(values.min()), float(values.max())
    missing = max(0.0, LEAST_SPAN * (mos_range[1] - mos_range[0]) - (high - low)) / 2
    return low - missing, high + missing


def paint_map(axis: 'Axes', picture: MappedPicture, mos_range: tuple[float, float], lower_better: bool) -> 'AxesImage':
    """Draw a picture in gray under its map, orange where it is bad and blue where it is good; return what has the colours.

    Args:
        axis: the panel.
        picture: with its map.
        mos_range: ends of the scale.
        lower_better: direction of the score.
    """
    from matplotlib.colors import LinearSegmentedColormap
    ends = [BLUE, PALE, ORANGE] if lower_better else [ORANGE, PALE, BLUE]
    height, width = picture.pixels.shape[:2]
    top, left, bottom, right = picture.region
    low, high = span_of(picture.values, mos_range)
    axis.imshow(picture.pixels.mean(axis=2), cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0))
    painted = axis.imshow(picture.values, cmap=LinearSegmentedColormap.from_list('quality', ends), vmin=low, vmax=high,
                          alpha=OPACITY, extent=(left, right, bottom, top), interpolation='bicubic')
    axis.set(xlim=(0, width), ylim=(height, 0), title=picture.title)
    without_ticks(axis)
    return painted


def draw_map(picture: MappedPicture, out: Path, mos_range: tuple[float, float], lower_better: bool) -> None:
    """Draw a picture beside its map, as PNG.

    Args:
        picture: with its map.
        out: the PNG.
        mos_range: ends of the scale.
        lower_better: direction of the score.
    """
    draw_maps([picture], out, mos_range, lower_better)


def draw_maps(pictures: Sequence[MappedPicture], out: Path, mos_range: tuple[float, float], lower_better: bool) -> None:
    """Draw pictures below each other, each beside its map, as one PNG.

    Args:
        pictures: with their maps.
        out: the PNG.
        mos_range: ends of the scale.
        lower_better: direction of the score.
    """
    save_png(map_figure(pictures, mos_range, lower_better), out)


@styled
def map_figure(pictures: Sequence[MappedPicture], mos_range: tuple[float, float], lower_better: bool) -> 'Figure':
    """Return a figure of pictures below each other, each beside its map (see `draw_maps`, which writes it)."""
    heights = [min(6.0, 4.6 * picture.pixels.shape[0] / picture.pixels.shape[1]) + 0.5 for picture in pictures]
    figure = empty_figure(10.5, sum(heights))
    grid = figure.add_gridspec(len(pictures), 2, height_ratios=heights)
    for row, picture in enumerate(pictures):
        shown, mapped = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        shown.imshow(picture.pixels)
        shown.set_title(picture.title)
        without_ticks(shown)
        painted = paint_map(mapped, picture, mos_range, lower_better)
        mapped.set_title(f'score of each place ({better(lower_better)})')
        figure.colorbar(painted, ax=mapped, shrink=0.8).solids.set_alpha(1)
    return figure
