"""Add votes, levels and aspects, fitted on training pictures, to a checkpoint."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, check_positive


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export with a text bank, or rali-lite')
    parser.add_argument('-opt', required=True, metavar='FILE',
                        help="option file of the checkpoint's training: its data sets are taken, and its kept features")
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of that file')
    parser.add_argument('--num-pictures', type=int, metavar='N', help='at most so many training pictures of each set (default: '
                                                                      'what the option file says, or all)')
    parser.add_argument('--device', default='cpu', help='where pictures are encoded whose features are not kept '
                                                        '(default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali add-diagnosis old.safetensors -opt options/rali_lite.yml --out new.safetensors', ''),
        notes='Scores and the text bank stay as they are. Pictures whose features the training kept (path: feature_cache) are '
              'not encoded again.')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint with a diagnosis, and say how good it is.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.training.rali.add_diagnosis import add_diagnosis
    check_positive(args, 'num_pictures')
    added = add_diagnosis(args.checkpoint, args.out, override(read_yaml(args.opt), args.force_yml),
                          num_pictures=args.num_pictures, device=args.device)
    report = added.report
    print(f'{added.path}: a diagnosis of {added.classes} classes, fitted on {report["training_pictures"]} pictures, '
          f'{added.megabytes:.2f} MB.')
    print(f'On {report["validation_pictures"]} validation pictures: the distortion is named right in {report["accuracy"]:.1%} '
          f'(by the texts alone {report["texts_accuracy"]:.1%}), its level is off by {report["level_error"]:.2f}.')
    return 0
