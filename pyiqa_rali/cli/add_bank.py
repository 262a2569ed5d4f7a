"""Add a text bank to a checkpoint, so that it can explain its scores."""

import argparse
import json
from dataclasses import replace
from typing import Any

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.training.rali.options import BankOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pyiqa-rali add-bank`."""
    default = BankOptions()
    parser.epilog = 'The text encoder must be the one that the images were aligned with. Scores stay as they are.'
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, a released RALI folder, or '
                                                                 'rali-lite')
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument('--texts', metavar='JSONL', help='reasoning texts, one line an image; "distortions" of a line, if it '
                                                        'has them, become the classes')
    texts.add_argument('-opt', metavar='YAML', help="option file of the checkpoint's training: its training texts and its text "
                                                    'encoder are taken')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of that file')
    parser.add_argument('--text-encoder', metavar='PATH', help='with --texts: folder or repository of a sentence encoder or '
                                                               'of a CLIP (default: the one that the checkpoint names)')
    parser.add_argument('--split-sentences', action='store_true', help='with --texts: encode each sentence by itself, as in '
                                                                       'training with split_sentences')
    parser.add_argument('--num-texts', type=int, metavar='N', help=f'texts in the bank (default: {default.num_texts})')
    parser.add_argument('--num-candidates', type=int, metavar='N', help='the choice is made among so many of the texts, drawn '
                                                                        f'at random (default: {default.num_candidates})')
    parser.add_argument('--selection', metavar='HOW', help=f'kmeans or farthest (default: {default.selection})')
    parser.add_argument('--temperature', type=float, metavar='T', help=f'of the votes (default: {default.temperature})')
    parser.add_argument('--seed', type=int, default=0, help='of the choice (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Choose texts, encode them, and write the checkpoint with them.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
    from pyiqa_rali.model.checkpoint_bank import with_bank
    from pyiqa_rali.model.locate import locate_checkpoint
    tensors, metadata = load_checkpoint(locate_checkpoint(args.checkpoint))
    features, bank = _from_options(args) if args.opt else _from_texts(args, metadata)
    tensors, metadata = with_bank(tensors, metadata, features, bank)
    write_checkpoint(args.out, tensors, metadata)
    print(summary(args.out, features, bank))
    return 0


def summary(out: str, features: Any, bank: dict[str, Any]) -> str:
    """Return what was added, in two lines."""
    known = [pairs for pairs in bank['distortions'] if pairs is not None]
    classes = {name for pairs in known for name, _ in pairs}
    size = features.numel() * features.element_size() + len(json.dumps(bank))
    return (f'{out}: a bank of {len(bank["texts"])} texts, chosen from {bank["made"]["candidates"]}, {size / 1e6:.2f} MB.\n'
            f'{len(known)} of them say what they name: {len(classes)} types of distortion'
            + ('.' if known else '; explanations will have texts, but no votes.'))


def _from_options(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return features and metadata of a bank from a run's option file."""
    from pyiqa_rali.core.options import override, read_yaml
    from pyiqa_rali.data.tables import build_table
    from pyiqa_rali.training.rali.bank import bank_of_run
    from pyiqa_rali.training.rali.batches import alignment_dataset
    from pyiqa_rali.training.rali.options import train_options
    from pyiqa_rali.training.rali.towers import build_towers
    if args.text_encoder or args.split_sentences:
        raise OptionError('--text-encoder, --split-sentences: go with --texts; an option file names its own text encoder.')
    options = train_options(override(read_yaml(args.opt), args.force_yml))
    if options.text_encoder.train:
        raise OptionError('text_encoder: train: true: the trained text encoder is not kept after a run. Train with a section '
                          '"bank:" in the option file.')
    towers = build_towers(options.network, options.text_encoder, options.path)
    names = [name for name in options.datasets if name.split('_')[0] == 'train']
    parts = [alignment_dataset(build_table(name, options.datasets[name], options.manual_seed), options.datasets[name],
                               options.align.texts_per_image, towers.image_encoder.config.preprocessing) for name in names]
    return bank_of_run(parts, [options.datasets[name] for name in names], towers.text_encoder, options.text_encoder,
                       _bank_options(args, options.bank or BankOptions()), args.seed)


def _from_texts(args: argparse.Namespace, metadata: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return features and metadata of a bank from a file of texts."""
    from pathlib import Path

    from pyiqa_rali.training.rali.bank import candidates_of_file, make_bank
    from pyiqa_rali.training.rali.text_encoders import load_text_encoder
    if args.force_yml:
        raise OptionError('--force_yml: goes with -opt.')
    training = metadata.get('training') if isinstance(metadata.get('training'), dict) else {}
    path = args.text_encoder or training.get('text_encoder')
    if path in (None, 'open_clip'):
        raise CheckpointError(f'{args.checkpoint}: does not hold its text encoder, and names '
                              f'{"only the library open_clip" if path else "none"}. Give it with --text-encoder, or the '
                              'option file of the training with -opt.')
    split = args.split_sentences or bool(training.get('split_sentences'))
    origin = {'texts': Path(args.texts).name, 'text_encoder': path}
    options = _bank_options(args, BankOptions())
    return make_bank(candidates_of_file(args.texts), load_text_encoder(path, split), options, args.seed, origin)


def _bank_options(args: argparse.Namespace, options: BankOptions) -> BankOptions:
    from pyiqa_rali.core.options import checked
    given = {name: getattr(args, name) for name in ('num_texts', 'num_candidates', 'selection', 'temperature')}
    return checked(replace(options, **{name: value for name, value in given.items() if value is not None}), 'bank')
