"""Fit when a fast metric should ask a slow one, and measure accuracy against cost."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_option_file


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, example='options/cascade.yml', change='share=0.1')
    parser.add_examples(
        ('pyiqa-rali cascade -opt options/cascade_people.yml', 'people as the slow judge: the upper bound'),
        ('pyiqa-rali cascade -opt options/cascade.yml', 'with a reasoning model; writes the metric'),
        notes="rule.json holds the map from slow to fast scores and the widths of the validation images, metric.yml the metric "
              "in pyiqa's format. Accuracy is measured on the test images for every share, beside random choice and an oracle.")


def run(args: argparse.Namespace) -> int:
    """Fit the rule, measure, and print the table.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.studies.cascade import cascade_options, run_cascade
    found = run_cascade(cascade_options(override(read_yaml(args.opt), args.force_yml)))
    print(found.markdown)
    print(f'{found.root}: rule.json, results.csv, results.json, results.md, scores.csv, figures/')
    return 0
