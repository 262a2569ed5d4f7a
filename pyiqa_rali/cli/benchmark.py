"""Measure time, memory and scores beside the release and the other metrics of pyiqa."""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean

PACKAGES = ('torch', 'transformers', 'pyiqa', 'timm', 'pillow', 'pyiqa-rali')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; what is not given comes from the preset."""
    from pyiqa_rali.studies.benchmark.cells import ALL, INPUTS, PRESETS
    from pyiqa_rali.studies.benchmark.subjects import PRECISIONS, RALI, RELEASE
    parser.epilog = (f'"{RALI}" and "{RELEASE}" (its own path: PIL, CLIPProcessor, CLIPModel, float32) read the same random '
                     'weights from files. Rows are kept as they are measured. '
                     'A GPU: pyiqa-rali benchmark --preset gpu --out DIR.')
    parser.add_argument('--preset', default='quick', help=f'{", ".join(PRESETS)} (default: %(default)s, a few minutes)')
    parser.add_argument('--out', default='experiments/benchmark', metavar='DIR', help='rows, CSV, table, figures (%(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on with what stands in --out; axes may have grown')
    axes = parser.add_argument_group("axes, instead of the preset's")
    axes.add_argument('-m', '--metrics', nargs='+', metavar='NAME',
                      help=f'{RELEASE}, {RALI}, rali-lite, and any no-reference metric of pyiqa')
    axes.add_argument('--precisions', nargs='+', metavar='P', help=f'of our metrics: {", ".join(PRECISIONS)}')
    axes.add_argument('--sizes', nargs='+', metavar='WxH', help='of the pictures, such as 512x384')
    axes.add_argument('--peer-sizes', nargs='+', metavar='WxH',
                      help='for the other metrics of pyiqa (default with --sizes: the same)')
    axes.add_argument('--batches', nargs='+', type=int, metavar='N', help='pictures in a call')
    axes.add_argument('--threads', nargs='+', metavar='N', help=f'of torch; {ALL} are all that the process may use')
    axes.add_argument('--inputs', nargs='+', metavar='KIND', help=', '.join(INPUTS))
    axes.add_argument('--device', help='cpu, cuda or cuda:N')
    axes.add_argument('--encoder', help=f'of {RALI} and {RELEASE}: ViT-L/14-336 or tiny')
    more = parser.add_argument_group('measuring')
    more.add_argument('--repeats', type=int, metavar='N', help='timed calls of a cell, after one that is not')
    more.add_argument('--starts', type=int, metavar='N', help='processes whose way to the first score is timed')
    more.add_argument('--seconds', type=float, metavar='S', help='no further call of a cell begins after so long')
    more.add_argument('--call-limit', type=float, metavar='S', help='cells with longer calls are left out')
    more.add_argument('--check-images', type=int, metavar='N', help='pictures whose scores are compared; 0 for none')
    more.add_argument('--pipeline-images', type=int, metavar='N', help='JPEG files that `score` is timed on; 0 for none')
    more.add_argument('--pipeline-metrics', nargs='+', default=['rali-lite'], metavar='NAME', help='(default: rali-lite)')
    more.add_argument('--pipeline-sizes', nargs='+', metavar='WxH', help='of those files')
    more.add_argument('--workers', nargs='+', type=int, metavar='N', help='of `score`')
    more.add_argument('--reasoner', metavar='SIZE', help='compare with a Qwen2.5-VL that writes: 7b (needs 40 GB), tiny')
    more.add_argument('--reasoner-batch', type=int, default=16, metavar='N', help='pictures (default: %(default)s)')
    more.add_argument('--reasoner-tokens', type=int, default=100, metavar='N', help='tokens (default: %(default)s)')
    more.add_argument('--image', help='picture (default: a photograph that scikit-image installs)')
    more.add_argument('--weights-folder', metavar='DIR', help='keep the random weights here (default: a temporary folder)')


def run(args: argparse.Namespace) -> int:
    """Measure what is missing, print the tables, write them and the figures.

    Returns:
        0; 1 when cells have no figure because something failed.

    Raises:
        OptionError, DataError: nothing can be measured; the message says why.
    """
    from pyiqa_rali.studies.benchmark.run import Rows
    with_preset(args)
    rows = Rows(Path(args.out), settings_of(args), args.resume)
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(args, rows, Path(folder), Path(args.weights_folder or folder))
        finally:
            if rows.rows:
                report(args, rows.rows)
    return int(any(not row.get('error', 'left out').startswith('left out') for row in rows.rows))


def with_preset(args: argparse.Namespace) -> None:
    """Fill in what was not given, and check what was.

    Raises:
        OptionError: a value cannot be used.
    """
    from pyiqa_rali.studies.benchmark.cells import INPUTS, PRESETS, parse_size, parse_threads
    from pyiqa_rali.studies.benchmark.random_release import ENCODERS
    from pyiqa_rali.studies.benchmark.reasoner import SIZES
    _check_choices('--preset', [args.preset], PRESETS)
    if args.sizes and not args.peer_sizes:
        args.peer_sizes = args.sizes
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    _check_choices('--inputs', args.inputs, INPUTS)
    _check_choices('--encoder', [args.encoder], ENCODERS)
    _check_choices('--reasoner', [args.reasoner] if args.reasoner else [], SIZES)
    for name, least in (('repeats', 1), ('starts', 1), ('batches', 1), ('workers', 0), ('check_images', 0),
                        ('pipeline_images', 0), ('reasoner_batch', 1), ('reasoner_tokens', 1)):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value < least:
                raise OptionError(f'--{name.replace("_", "-")}: {value} must be {least} at least.')
    args.sizes = [parse_size('--sizes', text) for text in args.sizes]
    args.peer_sizes = args.peer_sizes and [parse_size('--peer-sizes', text) for text in args.peer_sizes]
    args.pipeline_sizes = [parse_size('--pipeline-sizes', text) for text in args.pipeline_sizes]
    args.threads = list(dict.fromkeys(parse_threads(text) for text in args.threads))
    check_device(args.device)


def _check_choices(option: str, values: list[str], allowed: Any) -> None:
    for value in values:
        if value not in allowed:
            raise OptionError(f'{option}: "{value}" is not one of {", ".join(allowed)}.{did_you_mean(value, allowed)}')


def check_device(device: str) -> None:
    """Raise OptionError for a device that torch cannot use here."""
    import torch
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f'--device: "{device}" cannot be used: {str(error).splitlines()[0]}. '
                          'Give cpu, cuda or cuda:N.') from error


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what all rows of a folder have in common: machine, versions, how often and what."""
    import torch
    accelerator = torch.cuda.get_device_name(args.device) if args.device.startswith('cuda') else None
    return {'machine': cpu_name(), 'cpus': os.cpu_count(), 'accelerator': accelerator, 'encoder': args.encoder,
            'repeats': args.repeats, 'seconds': args.seconds, 'check_images': args.check_images, 'image': args.image,
            'versions': {name: metadata.version(name) for name in PACKAGES}}


def cpu_name() -> str:
    """Return the processor's name, and the units for half precision that Linux tells of."""
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        values = {line.split(':')[0].strip(): line.split(':', 1)[1].strip() for line in lines if ':' in line}
        units = [flag for flag in ('avx512_bf16', 'amx_bf16', 'avx512_fp16') if flag in values.get('flags', '').split()]
        return ' '.join([values.get('model name', platform.machine()), *units])
    return platform.processor() or platform.machine()


def measure(args: argparse.Namespace, rows: Any, folder: Path, weights: Path) -> None:
    """Measure every row that is not there yet, section by section."""
    from tqdm import tqdm

    from pyiqa_rali.studies.benchmark import sections
    with tqdm(unit='row', disable=None, file=sys.stderr) as bar:
        for row in sections.all_rows(args, rows, folder, weights):
            bar.set_description(f'{row["section"]} {row["subject"]}')
            bar.update()


def report(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print the tables, and write them, the CSV and the figures."""
    from pyiqa_rali.core.files import write_text
    from pyiqa_rali.core.tables import write_csv
    from pyiqa_rali.studies.benchmark.figures import draw
    from pyiqa_rali.studies.benchmark.report import COLUMNS, footnotes, table_text, with_ratios
    out = Path(args.out)
    rows = with_ratios(rows)
    machine = (f'{cpu_name()}, {os.cpu_count()} CPUs; {args.device}; median of {args.repeats} calls at most, after one that is '
               f'not counted; torch {metadata.version("torch")}, transformers {metadata.version("transformers")}')
    text = f'{table_text(rows)}\n\n{machine}\n{footnotes(args.encoder, rows)}'
    print(text)
    write_csv(out / 'benchmark.csv', COLUMNS, rows)
    write_text(out / 'benchmark.txt', text + '\n')
    drawn = draw(rows, out / 'figures')
    print(f'{out / "benchmark.csv"}, {", ".join(path.name for path in drawn)} in {out / "figures"}', file=sys.stderr)
