"""Measure votes and aspects beside what people said of photographs."""

import argparse
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, check_positive, data_set_of


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--opt', required=True, metavar='FILE',
                        help='an option file with the data set, such as options/mmp2k.yml')
    parser.add_argument('--dataset', nargs='+', default=['test'], metavar='SECTION',
                        help='which of its data sets, one or several (default: test)')
    parser.add_argument('--annotations', required=True, metavar='JSONL',
                        help='texts of people on the images, with the faults that they named')
    parser.add_argument('--out', required=True, metavar='DIR', help='where results.json and pictures.jsonl go')
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export with a text bank')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    parser.add_argument('--measures', action='store_true', help='also measure the pictures directly, without a model')
    parser.add_argument('--sample', type=int, metavar='N', help='only so many of the images, drawn by the seed')
    parser.add_argument('--seed', type=int, default=0, help='of the draw (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali evaluate-aspects --opt options/mmp2k.yml --annotations texts.jsonl --out aspects', ''),
        notes='Prints the area under the ROC curve for each fault that people named, with a 95 % bootstrap interval over the '
              'images. A run that was stopped continues when it is started again with the same arguments.')


def run(args: argparse.Namespace) -> int:
    """Ask about the pictures that are not done yet, compare with what people said, and print.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.data.picture_measures.labelled import labelled_images
    from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
    from pyiqa_rali.scoring.explaining import make_explainer
    from pyiqa_rali.studies.said_faults import evaluate_said_faults
    check_positive(args, 'sample')
    files, others = [], []
    for name in dict.fromkeys(args.dataset):
        section, values, reading = data_set_of(args.opt, name)
        found = labelled_images(section, values, with_verdict=False)
        files += found.files
        others += found.of_table
    made = evaluate_said_faults(make_explainer(args.metric, args.weights, args.device).net, files,
                                load_reasoning_texts(args.annotations), args.out, others, args.measures, args.sample, args.seed,
                                reading)
    print('\n'.join(lines_of(made.results)))
    return 0


def lines_of(results: dict[str, Any]) -> list[str]:
    """Return what is printed: a line for each fault, a column for each way to tell it."""
    from pyiqa_rali.studies.said_faults import WAYS
    found = {name: values for name, values in results.items() if name != 'all'}
    ways = [way for way in WAYS if any(way in values for values in found.values())]
    lines = [f'{results["all"]} pictures; area under the ROC curve [95 % interval]',
             f'{"people said":20}{"pictures":>9}' + ''.join(f'  {way:<19}' for way in ways)]
    for name, values in found.items():
        cells = ['{:.3f} [{:.3f}, {:.3f}]'.format(*values[way]) if way in values else '-' for way in ways]
        lines.append(f'{name:20}{values["pictures"]:9}' + ''.join(f'  {cell:<19}' for cell in cells))
    return [line.rstrip() for line in lines]
