"""Make one HTML page and a Markdown file about the results of runs."""

import argparse
import sys
from pathlib import Path

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folders of runs: training, GRPO, the chain, evaluate, ablate, '
                                                               'analyse; or any folder of CSV and PNG files')
    parser.add_argument('--out', default='report.html', metavar='HTML',
                        help='the page; the Markdown file is written next to it (default: %(default)s)')
    parser.add_argument('--title', default='Image quality by RALI', help='of the page (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali report experiments/RALI_demo', ''),
        ('pyiqa-rali report experiments/* --out report.html --title "Two encoders"', ''),
        notes='The page is one file and needs no network.')


def run(args: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        OptionError: --out is not an HTML file.
        DataError: no folder holds anything that a report can show.
    """
    from pyiqa_rali.report.blocks import Table
    from pyiqa_rali.report.build import LEFT_OUT, write_report
    out = Path(args.out)
    if out.suffix.lower() not in ('.html', '.htm'):
        raise OptionError(f'--out: {out} must end with .html.')
    report = write_report([Path(run) for run in args.runs], out, args.title)
    left_out = [row for section in report.sections if section.title == LEFT_OUT for block in section.blocks
                if isinstance(block, Table) for row in block.rows]
    for _, why in left_out:
        print(f'left out: {why}', file=sys.stderr)
    print(f'{out}: {len(report.sections) - bool(left_out)} runs, {out.stat().st_size / 1e6:.1f} MB; '
          f'{out.with_suffix(".md")} is the same as Markdown', file=sys.stderr)
    return 0
