"""Measure maps of quality on photographs of which one half is distorted."""

import argparse
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, check_least

HALVES = ('photos', 'phase', 'split_seed', 'ratios', 'num_photographs', 'types', 'levels', 'size', 'share')


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--out', required=True, metavar='DIR', help='where results.json, pictures.jsonl and maps.png go')
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    parser.add_argument('--photos', nargs='+', metavar='DIR', help='photographs (default: those that the dependencies install)')
    parser.add_argument('--num-photographs', type=int, default=8, metavar='N',
                        help='only this many, one crop of each (default: %(default)s)')
    parser.add_argument('--types', nargs='+', metavar='NAME', help='distortions (default: the 13 common types)')
    parser.add_argument('--levels', nargs='+', type=float, default=(1, 2, 3, 4, 5), metavar='LEVEL',
                        help='in [0.5, 5.5] (default: 1 2 3 4 5)')
    parser.add_argument('--phase', default='test', help='which of the split: train, val or test (default: %(default)s)')
    parser.add_argument('--split-seed', type=int, default=0, metavar='N',
                        help='of the split (default: %(default)s, that of rali-lite)')
    parser.add_argument('--ratios', nargs=3, type=float, default=(0.8, 0.05, 0.15), metavar=('TRAIN', 'VAL', 'TEST'),
                        help='shares of the split (default: those of rali-lite, 0.8 0.05 0.15)')
    parser.add_argument('--size', nargs=2, type=int, default=(384, 512), metavar=('HEIGHT', 'WIDTH'),
                        help='pixels of the crops (default: 384 512)')
    parser.add_argument('--share', type=float, metavar='S', help="of a position's difference from its picture, in [0, 1] "
                                                                 '(default: that of maps)')
    parser.add_examples(
        ('pyiqa-rali evaluate-maps --out experiments/maps', ''),
        ('pyiqa-rali evaluate-maps --photos photos/ --levels 3 5 --out maps', ''),
        notes='One half of a photograph is distorted, and the area under the curve tells how well the map separates the two '
              'halves. A run that was stopped continues when it is started again with the same arguments.')


def run(args: argparse.Namespace) -> int:
    """Measure the pictures that are not done yet, and print.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.scoring.explaining import make_rali
    from pyiqa_rali.studies.quality_maps import HalvesSettings, evaluate_maps
    check_least(args, {'num_photographs': 1})
    given = {name: getattr(args, name) for name in HALVES if getattr(args, name) is not None}
    found = evaluate_maps(make_rali(args.metric, args.weights, args.device).net, HalvesSettings(**given), args.out)
    print('\n'.join(lines_of(found.measures)))
    return 0


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return what is printed about the measures."""
    scores, means = found['told_by_scores_by_type'], found['mean_of_map_and_score']
    lines = [f'{found["pictures"]} pictures with one distorted half; in {found["invisible"]} more nothing changed',
             f'area under the curve {found["auc"]:.3f}, mean of the types; by level '
             + ', '.join(f'{level}: {value:.3f}' for level, value in found['by_level'].items()),
             'by type, with the share of pictures that score worse when all of them is distorted:']
    lines += [f'  {name.replace("_", " "):18} {value:.3f}   {scores[name]:.0%}' for name, value in found['by_type'].items()]
    lines.append(f'all types: {found["told_by_scores"]:.0%} score worse; area under the curve of these '
                 f'{found["auc_where_scores_tell"]:.3f}')
    for name, text in (('distorted_everywhere', 'all of the picture distorted'), ('one_half', 'one half')):
        lines.append(f'mean of the map and score, {text}: difference {means[name]["difference"]:+.3f}, absolute '
                     f'{means[name]["absolute_difference"]:.3f}')
    return lines
