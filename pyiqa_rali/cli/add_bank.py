"""Add a text bank to a checkpoint, so that it can explain its scores."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, a released RALI folder, or '
                                                                 'rali-lite')
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument('--texts', metavar='JSONL', help='reasoning texts, one line per image; "distortions" of a line, if it '
                                                        'has them, become the classes')
    texts.add_argument('-opt', metavar='FILE', help="option file of the checkpoint's training: its training texts and its text "
                                                    'encoder are taken')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of that file')
    group = parser.add_argument_group('with --texts')
    group.add_argument('--text-encoder', metavar='PATH', help='folder or repository of a sentence encoder or of a CLIP '
                                                              '(default: the one that the checkpoint names)')
    group.add_argument('--split-sentences', action='store_true', help='encode each sentence by itself, as in training with '
                                                                      'split_sentences')
    group = parser.add_argument_group('the bank (default: what the option file says, or the default of its section "bank")')
    group.add_argument('--num-texts', type=int, metavar='N', help='texts in the bank')
    group.add_argument('--num-candidates', type=int, metavar='N', help='choose among this many of the texts, drawn at random')
    group.add_argument('--selection', metavar='HOW', help='kmeans or farthest')
    group.add_argument('--temperature', type=float, metavar='T', help='of the votes')
    group.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali add-bank old.safetensors --texts texts.jsonl --out new.safetensors', ''),
        ('pyiqa-rali add-bank old.safetensors -opt options/rali.yml --out new.safetensors', ''),
        notes='The text encoder must be the one that the images were aligned with. Scores stay as they are.')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint with a bank, and say what was added.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.training.rali.add_bank import add_bank
    if args.force_yml and not args.opt:
        raise OptionError('--force_yml: is only for use with -opt.')
    options = override(read_yaml(args.opt), args.force_yml) if args.opt else None
    added = add_bank(args.checkpoint, args.out, texts=args.texts, options=options, text_encoder=args.text_encoder,
                     split_sentences=args.split_sentences, num_texts=args.num_texts, num_candidates=args.num_candidates,
                     selection=args.selection, temperature=args.temperature, seed=args.seed)
    print(f'{added.path}: a bank of {added.texts} texts, chosen from {added.candidates}, {added.megabytes:.2f} MB.')
    print(f'{added.known} of them state what they name: {added.types} types of distortion'
          + ('.' if added.known else '; explanations will have texts, but no votes.'))
    return 0
