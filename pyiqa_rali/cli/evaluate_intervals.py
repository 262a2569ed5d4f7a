"""Measure the intervals of a checkpoint on data sets with human scores."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_option_file
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of a calibrated export, or rali-lite')
    add_option_file(parser, example='options/evaluate_human.yml')
    parser.add_argument('--interval', type=float, default=90, metavar='PERCENT', help='of the intervals (default: %(default)s)')
    parser.add_argument('--out', metavar='CSV', help='also write the numbers to this file')
    parser.add_examples(
        ('pyiqa-rali evaluate-intervals rali-lite -opt options/evaluate_human.yml', ''),
        notes='The option file is one of evaluate: its data sets are used. Coverage is promised for images like those of the '
              'calibration; on others it is what it is, and the column "called unlike" says how many are noticed.')


def run(args: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.studies.intervals import as_markdown, evaluate_intervals, write_intervals
    if not 0 < args.interval < 100:
        raise OptionError(f'--interval: {args.interval:g} must be above 0 and below 100.')
    coverage = args.interval / 100
    rows = evaluate_intervals(args.checkpoint, override(read_yaml(args.opt), args.force_yml), coverage)
    print(as_markdown(rows, coverage))
    if args.out:
        write_intervals(rows, args.out)
    return 0
