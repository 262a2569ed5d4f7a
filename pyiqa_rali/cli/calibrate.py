"""Calibrate intervals around the scores of a checkpoint."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, or rali-lite')
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('-opt', metavar='FILE', help="option file of the checkpoint's training: its validation sets, and its "
                                                   'section "interval" if it has one')
    what.add_argument('--remove', action='store_true', help='write the checkpoint without its intervals')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of the file, such as interval:references=1000')
    parser.add_examples(
        ('pyiqa-rali calibrate old.safetensors -opt options/rali_lite.yml --out new.safetensors', ''),
        ('pyiqa-rali score folder/ --weights new.safetensors --interval 90 --out scores.csv', 'use them'),
        notes='Width and calibration come from the errors at validation images, which must not have been trained on. Scores '
              'stay as they are. Training does the same with a section "interval" in its option file.')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint with intervals, and say what they rest on.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.training.rali.calibrate import calibrate, remove_interval
    if args.remove:
        if args.force_yml:
            raise OptionError('--force_yml: is only for use with -opt.')
        print(f'{remove_interval(args.checkpoint, args.out)}: without intervals.')
        return 0
    found = calibrate(args.checkpoint, override(read_yaml(args.opt), args.force_yml), args.out)
    print(f'{found.path}: intervals calibrated on {found.images} images of {", ".join(found.calibrated_on)}, '
          f'{found.references} of them kept, {found.megabytes:.2f} MB.')
    print(f'Intervals of 90 % reach {found.half_width:.3f} to each side on average; SRCC of width and error, out of fold: '
          f'{found.srcc:.3f}.')
    return 0
