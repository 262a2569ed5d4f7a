"""Train variants for several seeds and splits, and compare them."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_option_file, check_positive


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, example='options/ablation.yml')
    parser.add_argument('--processes', type=int, default=1, metavar='N', help='trainings at the same time (default: 1)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='threads of each (default: 1)')
    parser.add_argument('--plan', action='store_true', help='print what would be trained, and exit')
    parser.add_examples(
        ('pyiqa-rali ablate -opt options/ablation.yml --plan', 'how many trainings it would be'),
        ('pyiqa-rali ablate -opt options/ablation.yml --processes 2', ''),
        notes='A run that was stopped continues when it is started again: finished cells are kept as long as their options, '
              'pictures, tables, texts, weights and package versions are the same.')


def run(args: argparse.Namespace) -> int:
    """Train what is missing, and print the table.

    Raises:
        OptionError: an option or argument cannot be used.
        DataError: trainings failed; the message names the log.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.studies.ablation.plan import ablation_options
    from pyiqa_rali.studies.ablation.run import Ablation
    check_positive(args, 'processes', 'threads')
    ablation = Ablation(ablation_options(override(read_yaml(args.opt), args.force_yml)))
    print(ablation.summary())
    if not args.plan:
        found = ablation.run(args.processes, args.threads)
        print(found.markdown)
        print(f'{found.root}: table.csv, table.md, cells.csv, figures/')
    return 0
