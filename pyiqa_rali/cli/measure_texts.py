"""Write texts on photographs from what is measured on them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.cli.arguments import (
    CommandParser,
    add_reading_settings,
    check_positive,
    data_set_of,
    reading_settings,
)
from pyiqa_rali.core.errors import OptionError, some

if TYPE_CHECKING:
    from pyiqa_rali.data.image_files import ReadingOptions


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='*', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    parser.add_argument('--opt', metavar='FILE', help="take the images of an option file's data set instead, with their MOS")
    parser.add_argument('--dataset', default='train', metavar='SECTION', help='which of its data sets (default: train)')
    parser.add_argument('--out', required=True, metavar='JSONL', help='the file to write')
    parser.add_argument('--texts-per-image', type=int, default=4, metavar='N', help='different ones (default: %(default)s)')
    parser.add_argument('--verdict', choices=('none', 'label', 'rank'),
                        help="what texts say of the whole: the MOS on its range in ten grades, or by the image's rank within "
                             'the set, or nothing (default: label with --opt, otherwise none)')
    parser.add_argument('--bank', metavar='CKPT', help='write half of the texts from the votes of this checkpoint: a file or '
                                                       'folder of an export with a text bank, or rali-lite')
    parser.add_argument('--measures', metavar='JSONL', help='pictures.jsonl of pyiqa-rali measure, so that pictures are not '
                                                            'measured again')
    parser.add_argument('--seed', type=int, default=0, help='of the wordings (default: %(default)s)')
    group = parser.add_rare_group('what is refused otherwise')
    group.add_argument('--verdict-on-any-phase', action='store_true',
                       help='also on images of a val or test phase; a model aligned with such texts has seen their MOS')
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali measure-texts --opt options/rali.yml --out texts.jsonl', ''),
        ('pyiqa-rali measure-texts photos/ --bank rali-lite --out texts.jsonl', ''),
        notes='A run that was stopped continues when it is started again with the same arguments; texts on pictures that have '
              'changed since are written anew. Each text records its seed and what it was written from; JSONL.json beside the '
              'file records the settings and a digest of each picture.')


def run(args: argparse.Namespace) -> int:
    """Write and report."""
    from pyiqa_rali.data.picture_measures.table import load_measures
    from pyiqa_rali.data.picture_measures.write_texts import MeasuredTextOptions, write_measured_texts
    check_positive(args, 'texts_per_image')
    if bool(args.images) == bool(args.opt):
        raise OptionError('give either images or folders, or --opt FILE.')
    verdict = args.verdict or ('label' if args.opt else 'none')
    images, labels, reading = _images_of(args, verdict)
    votes, bank = (None, '') if args.bank is None else _votes(args.bank)
    options = MeasuredTextOptions(args.texts_per_image, args.seed, verdict)
    report = write_measured_texts(images, Path(args.out), options, labels, votes, bank, reading=reading,
                                  measures=None if args.measures is None else load_measures(args.measures))
    print(f'{args.out}: {report.texts} texts on {report.images} images.', file=sys.stderr)
    if report.short:
        print(f'{len(report.short)} images have fewer than {args.texts_per_image} texts: {some(report.short)}.',
              file=sys.stderr)
    return 0


def _images_of(args: argparse.Namespace, verdict: str) -> 'tuple[list[Path], list[float] | None, ReadingOptions]':
    """Return the images, their MOS in [0, 1] where they have one, and how they are read."""
    from pyiqa_rali.data.image_files import READING
    from pyiqa_rali.data.image_finder import ImageFinder
    reading = reading_settings(args)
    if args.images:
        files = [Path(path) for path in ImageFinder(args.images)]
        if not files:
            raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
        return files, None, reading
    if reading != READING:
        raise OptionError('--as-stored, --pixel-limit: with --opt, the data set says how its pictures are read (upright, '
                          'pixel_limit).')
    from pyiqa_rali.data.picture_measures.labelled import labelled_images
    section, values, reading = data_set_of(args.opt, args.dataset)
    found = labelled_images(section, values, verdict != 'none', args.verdict_on_any_phase)
    return found.files, found.labels, reading


def _votes(checkpoint: str) -> tuple[Any, str]:
    """Return what asks the text bank of a checkpoint about a picture, and the digest of its weights."""
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.scoring.explaining import bank_votes, make_explainer
    named = checkpoint in ('rali-lite', 'rali')
    metric = make_explainer(checkpoint if named else None, None if named else checkpoint, None)
    return bank_votes(metric), weights_digest(metric.net)
