"""Measure explanations on pictures whose distortions are known."""

import argparse
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, check_least, refuse_changed

DRAWN = {'photos': None, 'phase': 'test', 'split_seed': 0, 'ratios': (0.8, 0.05, 0.15), 'num_photographs': None,
         'levels': (1, 2, 3, 4, 5), 'composites': None, 'size': (384, 512)}  # those of studies.explanations.DrawnSettings


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('folder', nargs='?', metavar='FOLDER', help='data set of make-dataset; without it, pictures are drawn '
                                                                    'from photographs: each with each type at each level')
    parser.add_argument('--out', required=True, metavar='DIR', help='where results.json, pictures.jsonl and a figure go')
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export with a text bank')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    drawn = parser.add_argument_group('pictures that are drawn')
    drawn.add_argument('--photos', metavar='DIR', help='photographs (default: those that the dependencies install)')
    drawn.add_argument('--phase', default=DRAWN['phase'], help='which of the split: train, val or test (default: %(default)s)')
    drawn.add_argument('--split-seed', type=int, default=DRAWN['split_seed'], metavar='N',
                       help='of the split (default: %(default)s, that of rali-lite)')
    drawn.add_argument('--ratios', nargs=3, type=float, default=DRAWN['ratios'], metavar=('TRAIN', 'VAL', 'TEST'),
                       help='shares of the split (default: those of rali-lite, 0.8 0.05 0.15)')
    drawn.add_argument('--num-photographs', type=int, metavar='N', help='only this many, one crop of each (default: all crops)')
    drawn.add_argument('--levels', nargs='+', type=float, default=DRAWN['levels'], metavar='LEVEL',
                       help='in [0.5, 5.5] (default: 1 2 3 4 5)')
    drawn.add_argument('--composites', type=int, metavar='N', help='instead of the grid, N random pictures, half of them with '
                                                                   'two distortions and a tenth with none')
    drawn.add_argument('--size', nargs=2, type=int, default=DRAWN['size'], metavar=('HEIGHT', 'WIDTH'),
                       help='pixels (default: 384 512)')
    parser.add_examples(
        ('pyiqa-rali evaluate-explanations datasets/demo --out experiments/explanations', ''),
        ('pyiqa-rali evaluate-explanations --photos photos/ --num-photographs 8 --out explanations', ''),
        notes='A run that was stopped continues when it is started again with the same arguments.')


def run(args: argparse.Namespace) -> int:
    """Explain the pictures that are not done yet, measure all, and print.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.scoring.explaining import make_explainer
    from pyiqa_rali.studies.explanations import DrawnSettings, evaluate_explanations
    check_least(args, {'num_photographs': 1, 'composites': 1})
    source = args.folder
    if source:
        refuse_changed(args, DRAWN, 'is about pictures that are drawn, but these come from FOLDER')
    else:
        source = DrawnSettings(**{name: getattr(args, name) for name in DRAWN})
    found = evaluate_explanations(make_explainer(args.metric, args.weights, args.device).net, source, args.out)
    print('\n'.join(lines_of(found.measures)))
    return 0


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return what is printed about the measures."""
    lines = [f'{found["pictures"]} pictures']
    for name, key in (('all types', 'all_types'), ('common types', 'common_types'),
                      ('the same, with votes for others left out', 'among_common_types')):
        each = found[key]
        if each:
            lines.append(f'{name}: {each["types"]} types, {each["pictures"]} pictures: class right {each["accuracy"]:.1%} '
                         f'(most frequent class {each["majority"]:.1%}), among the first three {each["top_3_accuracy"]:.1%}, '
                         f'family right {each["family_accuracy"]:.1%}; level off by {each["level_error"]:.2f} '
                         f'(a constant {each["level_error_of_the_median"]:.2f})')
    if found['composite']:
        each = found['composite']
        lines.append(f'two distortions: {each["pictures"]} pictures: first vote is one of them '
                     f'{each["first_is_one_of_them"]:.1%}, first two are both {each["first_two_are_both"]:.1%}')
    if found['pristine']:
        lines.append(f'pristine: {found["pristine"]["pictures"]} pictures: said so {found["pristine"]["accuracy"]:.1%}')
    votes, score = found['vote_calibration'], found['score']
    lines.append(f'largest vote: mean share {votes["mean_share"]:.1%}, right {votes["accuracy"]:.1%}, expected calibration '
                 f'error {votes["expected_error"]:.3f}')
    lines.append(f'score: PLCC {score["plcc"]:.3f}, SRCC {score["srcc"]:.3f}, mean absolute error '
                 f'{score["mean_absolute_error"]:.2f}; uncertainty {score["mean_uncertainty"]:.2f} on average, SRCC with the '
                 f'absolute error {score["uncertainty_srcc"]:.3f}')
    return lines
