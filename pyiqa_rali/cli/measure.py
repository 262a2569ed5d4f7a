"""Measure focus, noise, exposure and more on pictures."""

import argparse
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, add_reading_settings, check_positive, data_set_of, reading_settings
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='*', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    parser.add_argument('--opt', metavar='FILE', help="take the images of an option file's data set instead, with their MOS")
    parser.add_argument('--dataset', default='train', metavar='SECTION', help='which of its data sets (default: train)')
    parser.add_argument('--out', required=True, metavar='DIR', help='where pictures.jsonl, quantiles.json and results.json go')
    parser.add_argument('--annotations', metavar='JSONL', help='texts of people on the images, with the faults that they '
                                                               'named: compare each measure with them')
    parser.add_argument('--sample', type=int, metavar='N', help='only so many of the images, drawn by the seed')
    parser.add_argument('--seed', type=int, default=0, help='of the draw (default: %(default)s)')
    add_reading_settings(parser)
    parser.add_examples(('pyiqa-rali measure photos/ --out measures', ''),
                        ('pyiqa-rali measure --opt options/rali.yml --out measures', ''))


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    from pyiqa_rali.data.picture_measures.labelled import labelled_images
    from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
    from pyiqa_rali.studies.picture_measures import measure_pictures
    if bool(args.images) == bool(args.opt):
        raise OptionError('give either images or folders, or --opt FILE.')
    check_positive(args, 'sample')
    reading, labels = reading_settings(args), None
    others: list[str] = []
    if args.opt:
        section, values, reading = data_set_of(args.opt, args.dataset)
        found = labelled_images(section, values, with_verdict=False)
        files, labels, others = found.files, found.labels, found.of_table
    else:
        from pyiqa_rali.data.image_finder import ImageFinder
        files = [Path(path) for path in ImageFinder(args.images)]
    if not files:
        raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
    annotations = None if args.annotations is None else load_reasoning_texts(args.annotations)
    command = f'pyiqa-rali measure {"--opt FILE --dataset " + args.dataset if args.opt else "IMAGES"}'
    command += '' if args.sample is None else f' --sample {args.sample} --seed {args.seed}'
    measured = measure_pictures(files, args.out, labels, annotations, others, args.sample, args.seed, reading, command)
    print('\n'.join(_told(measured.results)))
    print(f'{measured.root}: the measures of {len(measured.pictures)} pictures')
    return 0


def _told(results: dict[str, Any]) -> list[str]:
    """Return the results as lines."""
    lines = [f'{name:22} SRCC with MOS {value:+.3f}' for name, value in results.get('srcc', {}).items()]
    for fault, areas in results.get('auc', {}).items():
        numbers = {name: area for name, area in areas.items() if ': ' not in name and name not in ('pictures', 'ours')}
        best = sorted(numbers, key=lambda name: -abs(numbers[name] - 0.5))[:4]
        ours = f'{areas["said: " + fault]:.3f} ({" and ".join(areas["ours"])})' if areas['ours'] else 'no fault of ours'
        lines.append(f'{fault}: {areas["pictures"]} pictures; area under the curve {ours}; of all measures '
                     + ', '.join(f'{name} {numbers[name]:.3f}' for name in best))
    return lines
