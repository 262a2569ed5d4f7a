"""Evaluate metrics on data sets with human scores: correlations, intervals, significance."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('-opt', default='options/evaluate.yml', metavar='FILE', help='option file (default: %(default)s)')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of the file, such as statistics:missing=count')


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the tables.

    Raises:
        OptionError, DataError, CheckpointError: the message says what to do.
    """
    from pyiqa_rali.evaluation.run import evaluate
    root = evaluate(args.opt, args.force_yml)
    print((root / 'results.md').read_text(encoding='utf-8'))
    print(f'Tables, scores of every image and pictures: {root}')
    return 0
