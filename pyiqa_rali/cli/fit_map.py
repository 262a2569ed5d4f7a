"""Fit the shares of maps of quality, from photographs without labels."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, check_least


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, or rali-lite')
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    parser.add_argument('--photos', nargs='+', metavar='DIR', help='photographs (default: those that the dependencies install)')
    parser.add_argument('--pictures', type=int, default=400, metavar='N',
                        help='half-distorted pictures to learn from (default: %(default)s)')
    parser.add_argument('--size', nargs=2, type=int, default=(384, 512), metavar=('HEIGHT', 'WIDTH'),
                        help='pixels of the crops (default: 384 512)')
    parser.add_argument('--steps', type=int, default=360, metavar='N', help='of the fit (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of everything that is drawn (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali fit-map rali.safetensors --photos photos/ --out with_map.safetensors', ''),
        ('pyiqa-rali evaluate-maps --weights with_map.safetensors --out maps', 'how well it tells halves apart'),
        notes='Of each photograph one half is distorted, and positions learn to score as the picture that is all distorted, '
              'or not at all. Scores of pictures stay as they are.')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint with fitted shares, and say how near positions come.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.training.rali.map_shares import MapOptions, fit_map
    check_least(args, {'pictures': 1, 'steps': 1})
    found = fit_map(args.checkpoint, args.out, MapOptions(photos=args.photos, pictures=args.pictures, size=tuple(args.size),
                                                          steps=args.steps, seed=args.seed))
    print(f'{found.path}: shares from {found.pictures} half-distorted pictures; their positions score {found.error:.3f} from '
          f'their half, {found.error_before:.3f} with equal shares.')
    return 0
