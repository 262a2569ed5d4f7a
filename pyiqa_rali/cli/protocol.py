"""Test the light model: seeds, splits, unseen types, baselines."""

import argparse
import json

from pyiqa_rali.cli.arguments import CommandParser, add_option_file, check_positive


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_option_file(parser, default='options/rali_lite_v1.yml', change='align:total_iter=600')
    parser.add_argument('--photos', metavar='DIR', help='photographs (default: those that the dependencies install)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='SEED',
                        help='one run for each, with its own split (default: 0 1 2)')
    parser.add_argument('--num-photographs', type=int, metavar='N', help='test photographs of each split (default: all)')
    parser.add_argument('--no-baselines', action='store_true', help='leave out ridge regression, PIQE and BRISQUE')
    parser.add_argument('--out', default='experiments/rali_lite_protocol.json', metavar='JSON',
                        help='the results (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali protocol --photos photos/ --num-photographs 4', ''),
        ('pyiqa-rali protocol --seeds 0 --no-baselines --force_yml align:total_iter=600', ''),
        notes='A protocol that was stopped continues when it is started again with the same arguments.')


def run(args: argparse.Namespace) -> int:
    """Train and measure every seed, and print the medians.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.studies.protocol import run_protocol
    check_positive(args, 'num_photographs')
    found = run_protocol(override(read_yaml(args.opt), args.force_yml), args.out, args.seeds, args.photos,
                         args.num_photographs, not args.no_baselines)
    print(json.dumps(found.median, indent=2))
    return 0
