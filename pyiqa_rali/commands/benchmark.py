"""Measure time and memory of metrics on one image file, beside the encoder of the paper."""

import argparse
import csv
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from pyiqa_rali.errors import OptionError

COLUMNS = ('metric', 'median_ms', 'ratio', 'load_s', 'peak_mb', 'parameters')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from pyiqa_rali.evaluation.speed import PAPER
    parser.epilog = (f'{PAPER} is RALI with the encoder of the paper and random weights: time and memory are those of the '
                     'real ones. Each metric runs in a process of its own; the ratio is its time over that of the last.')
    parser.add_argument('-m', '--metrics', nargs='+', default=['rali-lite', PAPER], metavar='NAME',
                        help=f'no-reference metrics of pyiqa, and {PAPER} (default: rali-lite {PAPER})')
    parser.add_argument('--image', help='image file (default: a photograph that scikit-image installs)')
    parser.add_argument('--size', nargs=2, type=int, default=(512, 384), metavar=('WIDTH', 'HEIGHT'),
                        help='the picture is resized to it and saved as PNG (default: 512 384)')
    parser.add_argument('--repeats', type=int, default=5, metavar='N',
                        help='timed calls, after one that is not (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='threads of torch (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument('--out', metavar='CSV', help='write the table to this file too')


def run(args: argparse.Namespace) -> int:
    """Measure, print the table and write it.

    Raises:
        OptionError: a number that is not positive.
        DataError: a metric failed, or the image cannot be read.
    """
    from tqdm import tqdm

    from pyiqa_rali.evaluation.speed import measure_metric
    for name, value in (('--repeats', args.repeats), ('--threads', args.threads), ('--size', min(args.size))):
        if value < 1:
            raise OptionError(f'{name}: {value} must be 1 at least.')
    with tempfile.TemporaryDirectory() as folder:
        image = resized_picture(args.image, args.size, Path(folder) / 'picture.png')
        rows = [measure_metric(name, str(image), args.repeats, args.threads, args.device)
                for name in tqdm(args.metrics, desc='benchmark', unit='metric')]
    for row in rows:
        row['ratio'] = row['median_ms'] / rows[-1]['median_ms']
    print(table_text(rows))
    print(f'{args.size[0]} x {args.size[1]} pixels from a file, {args.threads} threads of {os.cpu_count()} CPUs, '
          f'{args.device}, median of {args.repeats}; {platform.processor() or platform.machine()}')
    if args.out:
        write_table(args.out, rows)
    return 0


def resized_picture(image: str | None, size: tuple[int, int], path: Path) -> Path:
    """Save a picture at a size (width, height), and return where."""
    from PIL import Image

    from pyiqa_rali.data.images import read_rgb
    from pyiqa_rali.data.photographs import bundled_photographs
    source = image or next(item.path for item in bundled_photographs() if item.photograph_id == 'coffee')
    Image.fromarray(read_rgb(source)).resize(tuple(size), Image.Resampling.LANCZOS).save(path)
    return path


def table_text(rows: list[dict[str, Any]]) -> str:
    """Return the table for the screen."""
    shown = [('metric', 'ms', 'ratio', 'load s', 'peak MB', 'parameters')]
    shown += [(row['metric'], f'{row["median_ms"]:.1f}', f'{row["ratio"]:.4f}', f'{row["load_s"]:.2f}', f'{row["peak_mb"]:.0f}',
               f'{row["parameters"] / 1e6:.2f} M') for row in rows]
    widths = [max(len(line[column]) for line in shown) for column in range(len(COLUMNS))]
    return '\n'.join('  '.join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                            zip(line[1:], widths[1:], strict=True))]) for line in shown)


def write_table(path: str, rows: list[dict[str, Any]]) -> None:
    """Write one line a metric as CSV, with every single time."""
    from pyiqa_rali.files import atomic_open
    with atomic_open(path) as stream:
        writer = csv.writer(stream, lineterminator='\n')
        writer.writerow([*COLUMNS, 'seconds'])
        for row in rows:
            writer.writerow([*(row[name] for name in COLUMNS), ' '.join(f'{value:.6f}' for value in row['seconds'])])
