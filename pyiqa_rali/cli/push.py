"""Push a checkpoint to the hub, with a generated model card."""

import argparse
from pathlib import Path

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import write_text


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, or the folder of a reasoning '
                        'model')
    parser.add_argument('repository', metavar='OWNER/NAME', help='on the hub; made if it is not there')
    parser.add_argument('--private', action='store_true', help='make a new repository private')
    parser.add_argument('--revision', metavar='BRANCH', help='an existing branch (default: the main branch)')
    parser.add_argument('--message', metavar='TEXT', help='of the commit')
    group = parser.add_argument_group('the model card')
    group.add_argument('--licence', metavar='NAME', help="as the hub names it, such as apache-2.0 (default: the "
                       "checkpoint's own)")
    group.add_argument('--results', action='append', default=[], metavar='FOLDER', help='of pyiqa-rali evaluate, with results '
                       'of exactly these weights; may be given several times')
    group.add_argument('--limits', metavar='FILE', help='Markdown about what the checkpoint is not good for')
    group.add_argument('--card', metavar='FILE', help='only write the card to this file, and send nothing')
    parser.add_examples(
        ('pyiqa-rali push rali.safetensors me/rali-koniq --card README.md', 'look at the card first'),
        ('pyiqa-rali push rali.safetensors me/rali-koniq --results results/koniq', ''),
        ('pyiqa-rali push experiments/GRPO/models/reasoning me/reasoner --licence apache-2.0', ''),
        notes='The token is that of "hf auth login" or of the environment variable HF_TOKEN. The files appear by one commit: '
              'an upload that breaks off leaves the repository as it was.')


def run(args: argparse.Namespace) -> int:
    """Push, and say which commit it is.

    Raises:
        CheckpointError, OptionError, DataError: nothing was published; the message says why.
    """
    from pyiqa_rali.report.push import prepare_upload
    limits = ''
    if args.limits:
        try:
            limits = Path(args.limits).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f'--limits: {args.limits} cannot be read ({error}). Give a text file.') from error
    upload = prepare_upload(args.checkpoint, args.repository, licence=args.licence, results=args.results, limits=limits)
    if args.card:
        write_text(args.card, upload.card)
        print(f'{args.card}: the card of {args.repository}; nothing was sent.')
        return 0
    pushed = upload.push(args.message, args.private, args.revision)
    print(f'{pushed.address}\npinned: revision={pushed.commit}')
    return 0
