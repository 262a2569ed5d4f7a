"""Measure bases that follow the images, and scores blended with positions."""

import argparse
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, add_option_file, check_least


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, 'options/evaluate_basis.yml')
    parser.add_argument('--out', required=True, metavar='DIR', help='where results.json goes, and what was encoded')
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    parser.add_argument('--datasets', nargs='+', default=[], metavar='NAME', help='of the option file (default: all)')
    parser.add_argument('--num-images', type=int, metavar='N', help='at most so many of each, drawn at random (default: all)')
    parser.add_examples(
        ('pyiqa-rali evaluate-basis -opt options/evaluate_basis.yml --out experiments/basis', ''),
        ('pyiqa-rali evaluate-basis --weights FILE --num-images 200 --out experiments/basis', ''),
        notes='The basis is refreshed from the images of each data set, as adapt does, and agreement with MOS is compared '
              'before and after. A run that was stopped continues when it is started again with the same arguments.')


def run(args: argparse.Namespace) -> int:
    """Encode the images that are not encoded yet, measure, and print.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.evaluation.options import evaluate_options
    from pyiqa_rali.scoring.explaining import make_rali
    from pyiqa_rali.studies.basis import evaluate_basis
    check_least(args, {'num_images': 3})
    options = evaluate_options(override(read_yaml(args.opt), args.force_yml))
    net = make_rali(args.metric, args.weights, args.device).net
    print('\n'.join(lines_of(evaluate_basis(net, options, args.out, args.datasets, args.num_images))))
    return 0


def lines_of(found: Any) -> list[str]:
    """Return what is printed: SRCC of each data set, and the mean over those that nothing was learned from."""
    lines = ['SRCC with the basis as it is, and refreshed from the images of each data set:']
    lines += [f'  {name}: {_values(each)}' for name, each in found.adapted.items()]
    others = [name for name in found.adapted if not found.trained_on[name] and name not in found.fitted_on]
    if others:
        ways = found.adapted[others[0]]
        means = {way: sum(found.adapted[name][way] for name in others) / len(others) for way in ways}
        lines.append(f'  mean of {", ".join(others)}: {_values(means)}')
    lines.append('SRCC of the whole picture, of the mean and the best of its positions, and of their blend:')
    lines += [f'  {name}: {_values(each)}' for name, each in found.blended.items()]
    if found.weights:
        lines.append(f'  weights of the blend, fitted on {", ".join(found.fitted_on)}: {_values(found.weights)}')
    return lines


def _values(found: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in found.items())
