"""A benchmark's figures: time by subject, by size and by batch, start and memory, and the pipeline."""

from pathlib import Path
from typing import Any

from pyiqa_rali.figures.plots import BLUE, GRAY, ORANGE, axes_grid, save_figure
from pyiqa_rali.studies.benchmark.report import RELEASE_LABEL
from pyiqa_rali.studies.benchmark.subjects import OWN

Row = dict[str, Any]
MARKERS = 'osD^vP*XdpH<>'
AIMS = {'start_ratio': 0.6, 'memory_ratio': 0.75, 'time_ratio': 1.0}  # ratios to the release's path
TITLES = {'time_ratio': 'time of an image', 'start_ratio': 'start to first score', 'memory_ratio': 'peak memory'}


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Draw every figure that there are rows for, and return the files."""
    rows = [row for row in rows if 'error' not in row]
    drawn = [_draw_times(rows, folder / 'times.png'), _draw_ratios(rows, folder / 'ratios.png'),
             _draw_lines(rows, folder / 'sizes.png', 'megapixels'), _draw_lines(rows, folder / 'batches.png', 'batch'),
             _draw_pipeline(rows, folder / 'pipeline.png')]
    return [path for path in drawn if path]


def color_of(label: str) -> str:
    """Return the colour of a subject: ours, the release's, or the others'."""
    if label == RELEASE_LABEL:
        return ORANGE
    return BLUE if label.split()[0] in OWN else GRAY


def _timed(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row['section'] == 'speed' and row['input'] != 'tower']


def _draw_times(rows: list[Row], out: Path) -> Path | None:
    """Bars of milliseconds an image at the smallest batch, a panel for each size, input and number of threads."""
    rows = _timed(rows)
    if not rows:
        return None
    least = min(row['batch'] for row in rows)
    rows = [row for row in rows if row['batch'] == least]
    panels = sorted({(row['width'] * row['height'], row['width'], row['height'], row['input'], row['threads']) for row in rows})
    figure, axes = axes_grid(len(panels), 4.2, 3.2)
    for axis, (_, width, height, kind, threads) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if (row['width'], row['height'], row['input'], row['threads'])
                  == (width, height, kind, threads)]
        _bars(axis, {row['subject']: row['ms_per_image'] for row in chosen}, '{:,.1f}')
        axis.set_xscale('log')
        axis.set_title(f'{kind}, {width} x {height}, {_threads(threads)}', fontsize=9)
        axis.set_xlabel('ms an image (log)', fontsize=8)
    save_figure(figure, out)
    return out


def _draw_ratios(rows: list[Row], out: Path) -> Path | None:
    """Bars of the ratios to the release's path, with the aim as a line: time of a file, start, peak memory."""
    panels = []
    for threads in sorted({row['threads'] for row in rows if row['section'] == 'start'}):
        for name in AIMS:
            section = 'speed' if name == 'time_ratio' else 'start'
            chosen = [row for row in rows if row['section'] == section and row['threads'] == threads and name in row]
            first = _smallest_file(chosen) if section == 'speed' else chosen
            values = {row['subject']: row[name] for row in first if row['subject'] != RELEASE_LABEL}
            if values:
                panels.append((name, threads, values))
    if not panels:
        return None
    figure, axes = axes_grid(len(panels), 4.0, 3.2)
    for axis, (name, threads, values) in zip(axes, panels, strict=True):
        _bars(axis, values, '{:.2f}')
        axis.axvline(1, color=ORANGE, linewidth=1)
        axis.axvline(AIMS[name], color='black', linewidth=1, linestyle='--')
        axis.set_title(f'{TITLES[name]} / release, {_threads(threads)}', fontsize=9)
        axis.set_xlabel(f'aim for rali: {AIMS[name]:g} at most', fontsize=8)
    save_figure(figure, out)
    return out


def _smallest_file(rows: list[Row]) -> list[Row]:
    files = [row for row in rows if row['input'] == 'file']
    least = min(((row['width'] * row['height'], row['batch']) for row in files), default=None)
    return [row for row in files if (row['width'] * row['height'], row['batch']) == least]


def _bars(axis, values: dict[str, float], form: str) -> None:
    """Draw horizontal bars from the least to the most, each with its number."""
    ordered = sorted(values.items(), key=lambda item: -item[1])
    bars = axis.barh([label for label, _ in ordered], [value for _, value in ordered],
                     color=[color_of(label) for label, _ in ordered])
    axis.bar_label(bars, labels=[form.format(value) for _, value in ordered], padding=2, fontsize=7,
                   bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.4})
    axis.margins(x=0.2)
    axis.tick_params(labelsize=7)
    axis.grid(axis='x', alpha=0.25)


def _draw_lines(rows: list[Row], out: Path, along: str) -> Path | None:
    """Lines of milliseconds an image along the size (at the smallest batch) or the batch (at the smallest size)."""
    rows = [{**row, 'megapixels': row['width'] * row['height'] / 1e6} for row in _timed(rows)]
    fixed = 'batch' if along == 'megapixels' else 'megapixels'
    if len({row[along] for row in rows}) < 2:
        return None
    least = min(row[fixed] for row in rows)
    rows = [row for row in rows if row[fixed] == least]
    panels = sorted({(row['input'], row['threads']) for row in rows})
    labels = list(dict.fromkeys(row['subject'] for row in rows))
    figure, axes = axes_grid(len(panels), 4.0, 3.6)
    for axis, (kind, threads) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if (row['input'], row['threads']) == (kind, threads)]
        for label in labels:
            points = sorted((row[along], row['ms_per_image']) for row in chosen if row['subject'] == label)
            axis.plot([x for x, _ in points], [y for _, y in points], label=label, color=color_of(label), linewidth=1.2,
                      marker=MARKERS[labels.index(label) % len(MARKERS)], markersize=5,
                      linestyle='-' if label.endswith('fp32') else '--')
        axis.set(xscale='log', yscale='log', title=f'{kind}, {_threads(threads)}', xlabel=along, ylabel='ms an image')
        axis.grid(alpha=0.25, which='both')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper', fontsize=8)
    save_figure(figure, out)
    return out


def _draw_pipeline(rows: list[Row], out: Path) -> Path | None:
    """Bars of images a second: decoding alone, the model alone, the command with its workers."""
    rows = [row for row in rows if row['section'] == 'pipeline']
    if not rows:
        return None
    panels = list(dict.fromkeys((row['subject'], row['width'], row['height']) for row in rows))
    figure, axes = axes_grid(len(panels), 4.6, 2.8)
    for axis, (label, width, height) in zip(axes, panels, strict=True):
        chosen = [row for row in rows if (row['subject'], row['width'], row['height']) == (label, width, height)][::-1]
        bars = axis.barh([row['input'] for row in chosen], [row['images_per_s'] for row in chosen], color=[
            ORANGE if row['input'] == 'model' else GRAY if row['input'] == 'decode' else BLUE for row in chosen])
        axis.bar_label(bars, labels=[f'{row["images_per_s"]:.1f}' for row in chosen], padding=2, fontsize=8)
        axis.margins(x=0.2)
        axis.set(title=f'{label}, JPEG of {width} x {height}', xlabel='images a second')
    save_figure(figure, out)
    return out


def _threads(threads: int) -> str:
    return f'{threads} thread{"s" if threads > 1 else ""}'
