"""Measure and simulate what a large job takes, and where its bottleneck is."""

import argparse
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError

SUBJECTS = ('listing', 'writing', 'scoring', 'sending', 'overhead', 'memory')


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--images', type=float, default=1e9, metavar='N', help='in the job (default: %(default)g)')
    parser.add_argument('--rate', type=float, metavar='R', help='images per second of one core')
    parser.add_argument('--cores', type=int, nargs='+', default=[64, 1024, 4096, 16384], metavar='N',
                        help='of all machines (default: 64 1024 4096 16384)')
    group = parser.add_argument_group('what each part can do')
    group.add_argument('--listing', type=float, metavar='R', help='names per second of the process that lists')
    group.add_argument('--sending', type=float, metavar='R', help='tasks per second of the process that was started')
    group.add_argument('--reading', type=float, metavar='R', help='bytes per second of storage, all machines together')
    group.add_argument('--image-bytes', type=float, metavar='N', help='of an image', dest='image')
    group.add_argument('--writing', type=float, metavar='R', help='files of the table per second, all machines together')
    group.add_argument('--start', type=float, metavar='S', help='seconds until a process scores its first image')
    group = parser.add_argument_group('measuring')
    group.add_argument('--measure', nargs='+', choices=SUBJECTS, default=[], metavar='WHAT',
                       help=f'measure this on this machine instead of simulating: {", ".join(SUBJECTS)}')
    group.add_argument('--pictures', metavar='FOLDER', help='for scoring and overhead')
    group.add_argument('--names', type=int, default=1_000_000, metavar='N',
                       help='for listing and memory (default: %(default)s)')
    group.add_argument('--backend', choices=('torch', 'onnx'), default='torch',
                       help='for scoring and overhead (default: torch)')
    parser.add_examples(
        ('pyiqa-rali plan-scale --rate 22.7', 'a simulated job of 10^9 images'),
        ('pyiqa-rali plan-scale --rate 22.7 --reading 1e9 --cores 1024', 'slow storage'),
        ('pyiqa-rali plan-scale --measure listing writing', 'this machine'),
        ('pyiqa-rali plan-scale --measure scoring overhead --pictures photos/', ''),
        notes='Seconds of scoring and listing are those of the processor: other programs on the machine change little.')


def run(args: argparse.Namespace) -> int:
    """Measure, or simulate and print a table.

    Raises:
        OptionError: a number cannot be used, or something needs another argument.
    """
    if args.measure:
        measure(args)
        return 0
    from pyiqa_rali.core.tables import markdown_table
    from pyiqa_rali.studies.scale.simulation import Rates, simulate, table
    if args.rate is None:
        raise OptionError('--rate: give the images per second of one core, or --measure scoring to find out.')
    given = {name: getattr(args, name) for name in ('listing', 'sending', 'reading', 'image', 'writing', 'start')
             if getattr(args, name) is not None}
    rates = Rates(args.rate, **given)
    print('\n'.join(f'{name}: {value:g}' for name, value in vars(rates).items()))
    rows = table([simulate(int(args.images), cores, rates) for cores in args.cores])
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    return 0


def measure(args: argparse.Namespace) -> None:
    """Measure what was asked for, and print each as it is known."""
    from pyiqa_rali.studies.scale import measure as studies
    options = {'backend': args.backend}
    for subject in args.measure:
        if subject == 'listing':
            found: Any = vars(studies.measure_listing(args.names))
        elif subject == 'writing':
            found = {'files_per_s': studies.measure_writing()}
        elif subject == 'sending':
            found = {'tasks_per_s': studies.measure_sending()}
        elif subject == 'memory':
            found = studies.driver_memory(args.names)
        elif subject == 'scoring':
            found = studies.measure_scoring(pictures_of(args), options)
        else:
            overhead = studies.measure_overhead(pictures_of(args), options)
            found = {**vars(overhead), 'share': overhead.share}
        print(f'{subject}:', ', '.join(f'{name} {value:.4g}' if isinstance(value, float) else f'{name} {value}'
                                       for name, value in found.items()), flush=True)


def pictures_of(args: argparse.Namespace) -> list[Path]:
    """Return the image files of the folder of pictures."""
    from pyiqa_rali.data.image_finder import ImageFinder
    if args.pictures is None:
        raise OptionError('--pictures: scoring and overhead need a folder of image files.')
    found = [Path(path) for path in ImageFinder([args.pictures])]
    if not found:
        raise OptionError(f'--pictures: no image below {args.pictures}.')
    return found
