"""Figures of a benchmark, as PNG: time by subject, by size and by batch, start and memory, and the pipeline."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.figures.style import BLUE, GRAY, INK, ORANGE, bars, logarithmic, panels, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]  # of the table that `benchmark` writes
Colour = Callable[[str], str]
MARKERS = 'osD^vP*XdpH<>'
AIMS = {'start_ratio': 0.6, 'memory_ratio': 0.75, 'time_ratio': 1.0}  # ratios to the reference
TITLES = {'time_ratio': 'time of an image', 'start_ratio': 'start to first score', 'memory_ratio': 'peak memory'}


@styled
def draw_benchmark(rows: Sequence[Row], folder: Path, reference: str, own: Collection[str]) -> list[Path]:
    """Draw every figure that there are rows for, and return the files.

    Args:
        rows: of the table, with their ratios.
        folder: where the figures go.
        reference: the subject that the others are compared with.
        own: names of this package's metrics, with which the labels of their subjects begin.
    """
    def colour(label: str) -> str:
        return ORANGE if label == reference else BLUE if label.split()[0] in own else GRAY

    rows = [row for row in rows if 'error' not in row]
    timed = [row for row in rows if row['section'] == 'speed' and row['input'] != 'tower']
    drawn = [_draw_times(timed, folder / 'times.png', colour), _draw_ratios(rows, folder / 'ratios.png', reference, colour),
             _draw_lines(timed, folder / 'sizes.png', 'megapixels', colour),
             _draw_lines(timed, folder / 'batches.png', 'batch', colour), _draw_pipeline(rows, folder / 'pipeline.png')]
    return [path for path in drawn if path]


def _draw_times(rows: Sequence[Row], out: Path, colour: Colour) -> Path | None:
    """Bars of milliseconds per image at the smallest batch, a panel for each size, input and number of threads."""
    if not rows:
        return None
    least = min(row['batch'] for row in rows)
    rows = [row for row in rows if row['batch'] == least]
    places = sorted({(row['width'] * row['height'], row['width'], row['height'], row['input'], row['threads']) for row in rows})
    figure, axes = panels(len(places), 4.2, 3.2)
    for axis, (_, width, height, kind, threads) in zip(axes, places, strict=True):
        chosen = [row for row in rows if (row['width'], row['height'], row['input'], row['threads'])
                  == (width, height, kind, threads)]
        _subject_bars(axis, {row['subject']: row['ms_per_image'] for row in chosen}, '{:,.1f}', colour)
        logarithmic(axis, 'x')
        axis.set(title=f'{kind}, {width} x {height}, {_threads(threads)}', xlabel='ms an image (log)')
    return save_png(figure, out)


def _draw_ratios(rows: Sequence[Row], out: Path, reference: str, colour: Colour) -> Path | None:
    """Bars of the ratios to the reference, with the aim as a line: time of a file, start, peak memory."""
    found = []
    for threads in sorted({row['threads'] for row in rows if row['section'] == 'start'}):
        for name in AIMS:
            section = 'speed' if name == 'time_ratio' else 'start'
            chosen = [row for row in rows if row['section'] == section and row['threads'] == threads and name in row]
            first = _smallest_file(chosen) if section == 'speed' else chosen
            values = {row['subject']: row[name] for row in first if row['subject'] != reference}
            if values:
                found.append((name, threads, values))
    if not found:
        return None
    figure, axes = panels(len(found), 4.0, 3.2)
    for axis, (name, threads, values) in zip(axes, found, strict=True):
        _subject_bars(axis, values, '{:.2f}', colour)
        axis.axvline(1, color=ORANGE, linewidth=1)
        axis.axvline(AIMS[name], color=INK, linewidth=1, linestyle='--')
        axis.set(title=f'{TITLES[name]} / {reference.split()[0]}, {_threads(threads)}',
                 xlabel=f'aim for rali: {AIMS[name]:g} at most')
    return save_png(figure, out)


def _smallest_file(rows: Sequence[Row]) -> list[Row]:
    files = [row for row in rows if row['input'] == 'file']
    least = min(((row['width'] * row['height'], row['batch']) for row in files), default=None)
    return [row for row in files if (row['width'] * row['height'], row['batch']) == least]


def _subject_bars(axis: 'Axes', values: Mapping[str, float], form: str, colour: Colour) -> None:
    """Draw a bar for each subject, the shortest on top, with its number."""
    ordered = dict(sorted(values.items(), key=lambda item: item[1]))
    bars(axis, ordered, [form.format(value) for value in ordered.values()], [colour(label) for label in ordered])
    axis.margins(x=0.2)


def _draw_lines(rows: Sequence[Row], out: Path, along: str, colour: Colour) -> Path | None:
    """Lines of milliseconds per image along the size (at the smallest batch) or the batch (at the smallest size)."""
    rows = [{**row, 'megapixels': row['width'] * row['height'] / 1e6} for row in rows]
    fixed = 'batch' if along == 'megapixels' else 'megapixels'
    if len({row[along] for row in rows}) < 2:
        return None
    least = min(row[fixed] for row in rows)
    rows = [row for row in rows if row[fixed] == least]
    places = sorted({(row['input'], row['threads']) for row in rows})
    labels = list(dict.fromkeys(row['subject'] for row in rows))
    figure, axes = panels(len(places), 4.0, 3.6)
    for axis, (kind, threads) in zip(axes, places, strict=True):
        chosen = [row for row in rows if (row['input'], row['threads']) == (kind, threads)]
        for number, label in enumerate(labels):
            points = sorted((row[along], row['ms_per_image']) for row in chosen if row['subject'] == label)
            axis.plot([x for x, _ in points], [y for _, y in points], label=label, color=colour(label), linewidth=1.2,
                      marker=MARKERS[number % len(MARKERS)], markersize=5, linestyle='-' if label.endswith('fp32') else '--')
        logarithmic(axis, 'x', 'y')
        axis.set(title=f'{kind}, {_threads(threads)}', xlabel=along, ylabel='ms an image')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper')
    return save_png(figure, out)


def _draw_pipeline(rows: Sequence[Row], out: Path) -> Path | None:
    """Bars of images per second: decoding alone, the model alone, the command with its workers."""
    rows = [row for row in rows if row['section'] == 'pipeline']
    if not rows:
        return None
    places = list(dict.fromkeys((row['subject'], row['width'], row['height']) for row in rows))
    figure, axes = panels(len(places), 4.6, 2.8)
    for axis, (label, width, height) in zip(axes, places, strict=True):
        chosen = {row['input']: row['images_per_s'] for row in rows
                  if (row['subject'], row['width'], row['height']) == (label, width, height)}
        colours = [ORANGE if kind == 'model' else GRAY if kind == 'decode' else BLUE for kind in chosen]
        bars(axis, chosen, [f'{value:.1f}' for value in chosen.values()], colours)
        axis.margins(x=0.2)
        axis.set(title=f'{label}, JPEG of {width} x {height}', xlabel='images a second')
    return save_png(figure, out)


def _threads(threads: int) -> str:
    return f'{threads} thread{"s" if threads > 1 else ""}'
