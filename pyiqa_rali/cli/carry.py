"""Train several ways to teach, and test which carry across data sets."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_option_file


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, example='options/people.yml')
    parser.add_argument('--plan', action='store_true', help='print what would be trained, and exit')
    parser.add_examples(
        ('pyiqa-rali carry -opt options/people.yml --plan', 'how many trainings it would be'),
        ('pyiqa-rali carry -opt options/people.yml', ''),
        notes='A study that was stopped continues when it is started again: finished trainings and features are kept as long '
              'as what they depend on is the same, the bytes of the pictures included.')


def run(args: argparse.Namespace) -> int:
    """Train what is missing, and print the tables.

    Raises:
        OptionError: an option or argument cannot be used.
        DataError: pictures or texts cannot be used.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.studies.carry import Carry, carry_options
    study = Carry(carry_options(override(read_yaml(args.opt), args.force_yml)))
    print(study.summary())
    if not args.plan:
        found = study.run()
        print(found.markdown)
        print(f'{found.root}: results.csv, results.json, table.md, figures/')
    return 0
