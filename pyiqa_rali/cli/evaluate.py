"""Evaluate metrics on data sets with human scores."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_option_file


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, default='options/evaluate.yml', change='statistics:missing=count')
    parser.add_examples(
        ('pyiqa-rali evaluate -opt options/evaluate_koniq.yml', ''),
        ('pyiqa-rali evaluate --force_yml statistics:missing=count', 'despite missing scores'),
        notes='Correlations with intervals, tests of which metric is better, scores of every image, and figures. Scores are '
              'kept: an evaluation that was stopped continues, and nothing is computed twice.')


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the tables.

    Raises:
        OptionError, DataError, CheckpointError: the message says what to do.
    """
    from pyiqa_rali.evaluation.run import evaluate
    root = evaluate(args.opt, args.force_yml).folder
    print((root / 'results.md').read_text(encoding='utf-8'))
    print(f'Tables, scores of every image and pictures: {root}')
    return 0
