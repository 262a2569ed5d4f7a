"""Make a data set from photographs: pictures, labels, texts."""

import argparse
import os

from pyiqa_rali.cli.arguments import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--out', metavar='DIR', help='folder to fill: pictures, table, texts, option sections')
    parser.add_argument('--photos', metavar='DIR', help='photographs (default: those that scikit-image and pyiqa install)')
    parser.add_argument('--workers', type=int, metavar='N', help='processes (default: one for each CPU, 8 at most)')
    parser.add_argument('--list-types', action='store_true', help='print the distortions and their groups, and exit')
    what = parser.add_argument_group('pictures')
    what.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), default=(192, 256),
                      help='pixels; photographs are shrunk to fill it, and their centre is cut out (default: 192 256)')
    what.add_argument('--types', nargs='+', default=('version_0.1',), metavar='NAME',
                      help='distortions, or groups of them: a family, version_0.1, all (default: version_0.1)')
    what.add_argument('--levels', nargs='+', type=float, default=(1, 2, 3, 4, 5), metavar='LEVEL',
                      help='strengths in [0.5, 5.5] (default: 1 2 3 4 5)')
    what.add_argument('--composites', type=int, default=5, metavar='N',
                      help='pictures with two distortions, for each photograph file (default: 5)')
    what.add_argument('--texts-per-image', type=int, default=4, metavar='N', help='reasoning texts (default: 4)')
    what.add_argument('--seed', type=int, default=0, metavar='N', help='of distortions and wording (default: 0)')
    split = parser.add_argument_group('split by photograph')
    split.add_argument('--split-seed', type=int, default=0, metavar='N', help='of the first split (default: 0)')
    split.add_argument('--splits', type=int, default=1, metavar='N', help='how many splits, a table column each (default: 1)')
    split.add_argument('--ratios', nargs=3, type=float, default=(0.7, 0.1, 0.2), metavar=('TRAIN', 'VAL', 'TEST'),
                       help='shares (default: 0.7 0.1 0.2)')
    split.add_argument('--hold-out', nargs='+', default=(), metavar='NAME',
                       help='distortions or families that training must not see; they get a test split of their own')
    labels = parser.add_rare_group('labels and crops')
    labels.add_argument('--groups', metavar='CSV', help='columns image and photo, for several crops of one photograph '
                                                        '(default: photos.csv in the folder, if it exists)')
    labels.add_argument('--metrics', nargs='+', metavar='NAME',
                        help="pyiqa's full-reference metrics for the label (default: fsim gmsd nlpd)")
    labels.add_argument('--calibration', metavar='FILE', help="quantiles of the metrics (default: the package's)")
    labels.add_argument('--calibrate', metavar='FILE', help='measure random crops of the photographs, write the quantiles of '
                                                            'the metrics to FILE, and exit')
    labels.add_argument('--calibration-draws', type=int, default=1600, metavar='N', help='crops for it (default: 1600)')
    parser.add_examples(
        ('pyiqa-rali make-dataset --out datasets/demo', ''),
        ('pyiqa-rali make-dataset --photos photos/ --out datasets/mine --splits 3 --hold-out webp haze', ''),
        notes='The labels are synthetic: no human opinion. A run that was stopped continues when it is started again with the '
              'same arguments.')


def run(args: argparse.Namespace) -> int:
    """Make the data set, or do what else was asked for.

    Raises:
        OptionError: an argument that cannot be used.
        DataError: photographs that cannot be used.
    """
    from pyiqa_rali.core.errors import OptionError
    if args.list_types:
        return _list_types()
    if args.calibrate:
        return _calibrate(args)
    if not args.out:
        raise OptionError('--out: must be given: the folder to fill.')
    return _make(args)


def _make(args: argparse.Namespace) -> int:
    from pyiqa_rali.data.distortions import expand_names
    from pyiqa_rali.data.synthetic.make_dataset import make_dataset
    from pyiqa_rali.data.synthetic.settings import DatasetSettings
    chosen = {'metrics': tuple(args.metrics)} if args.metrics else {}
    types = tuple(expand_names(args.types, 'types'))
    held_out: dict[str, None] = {}
    for name in args.hold_out:
        expanded = expand_names(name, 'hold_out')
        # of a family, those types that are made; where none is, all of them, for the check that says so
        held_out.update(dict.fromkeys([each for each in expanded if each in types] or expanded))
    settings = DatasetSettings(
        out=args.out, photos=args.photos, groups=args.groups, size=tuple(args.size), levels=tuple(args.levels),
        composites=args.composites, calibration=args.calibration, types=types, seed=args.seed,
        hold_out=tuple(held_out), split_seed=args.split_seed, splits=args.splits, ratios=tuple(args.ratios),
        texts_per_image=args.texts_per_image, **chosen)
    workers = args.workers if args.workers is not None else min(8, available_cpus())
    count = make_dataset(settings, workers)
    print(f'{count} pictures in {args.out}. Their labels are synthetic; README.txt there says how they were made, and '
          'dataset.yml holds the section datasets for an option file.')
    return 0


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _calibrate(args: argparse.Namespace) -> int:
    from pyiqa_rali.data.synthetic.calibration import calibrate
    from pyiqa_rali.data.synthetic.pseudo_mos import METRICS
    calibrate(args.calibrate, args.photos, args.groups, args.calibration_draws, args.seed, tuple(args.metrics or METRICS))
    print(f'The quantiles are in {args.calibrate}; give them to make-dataset with --calibration, or to a data set of an '
          'option file with calibration.')
    return 0


def _list_types() -> int:
    from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS, GROUPS
    for kind in DISTORTIONS.values():
        print(f'{kind.name:22}{kind.family:13}{kind.phrase}')
    print(f'Groups: {", ".join(GROUPS)}. version_0.1, the default, is the first {len(DEFAULT_TYPES)}.')
    return 0
