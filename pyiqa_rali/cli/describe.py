"""Let a reasoning model describe and rate images."""

import argparse
import json
import sys
from typing import Any

from pyiqa_rali.cli.arguments import (
    CommandParser,
    add_model,
    add_model_settings,
    add_reading_settings,
    check_positive,
    model_settings,
    reading_settings,
)
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import READING, ImageFinder, ReadingOptions
from pyiqa_rali.vlm.decoding import RELEASES

MODES = ('expectation', 'greedy', 'mean', 'release')


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    add_model(parser)
    parser.add_argument('--mode', choices=MODES, default='expectation', help='how the rating is had (default: %(default)s)')
    parser.add_argument('--num-samples', type=int, default=5, metavar='N', help='for --mode mean (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='one JSON object a line instead of text')
    add_model_settings(parser)
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali describe photo.jpg --model ByteDance/Q-Insight:score_degradation --rating-range 1 5', ''),
        ('pyiqa-rali describe photos/ --model experiments/GRPO_koniq/models/reasoning --json', ''),
        notes='expectation: greedy reasoning, then the mean over the digits of the rating; greedy: the rating as written; '
              'mean: of sampled ratings; release: one rating, drawn as the code of qinsight or visualquality-r1 draws it. An '
              'image without a rating has a line with the reason; then the exit status is 1.')


def run(args: argparse.Namespace) -> int:
    """Describe, image after image; one that cannot be read has a line with the reason.

    Returns:
        0; 1 when there are images without a rating.
    """
    check_positive(args, 'num_samples')
    settings = model_settings(args)
    reading, files = reading_settings(args), list(ImageFinder(args.images))
    if not files:
        raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
    if args.mode == 'release' and settings.release and args.max_new_tokens is None:
        settings.max_new_tokens = RELEASES[settings.release].max_new_tokens
    net = settings.scorer(args.mode, args.num_samples)
    failed = 0
    for start in range(0, len(files), args.batch_size):
        for path, found in described(net, files[start:start + args.batch_size], reading):
            failed += isinstance(found, DataError) or found.status == 'failed'
            print(as_json(path, found) if args.json else as_text(path, found), flush=True)
    if failed:
        print(f'{failed} of {len(files)} images have no rating.', file=sys.stderr)
    return 1 if failed else 0


def described(net, files: list[str], reading: ReadingOptions = READING) -> list[tuple[str, Any]]:
    """Return each file with its description, or with the DataError that says why it has none."""
    found = [picture_or_error(net.reasoner, path, reading) for path in files]
    descriptions = iter(net.describe([each for each in found if not isinstance(each, DataError)]))
    return [(path, each if isinstance(each, DataError) else next(descriptions))
            for path, each in zip(files, found, strict=True)]


def picture_or_error(reasoner, path: str, reading: ReadingOptions = READING):
    """Return the picture of a file, or the DataError that says why the model cannot be shown it."""
    from pyiqa_rali.vlm.write_texts import picture_for
    try:
        return picture_for(reasoner, path, reading)
    except DataError as error:
        return error


def as_text(path: str, found) -> str:
    """Return the lines of one image."""
    if isinstance(found, DataError):
        return f'{path}\n  error: {found}'
    return f'{path}\n  rating {found.rating:.3f} ({found.status})\n  {found.reasoning_text}'


def as_json(path: str, found) -> str:
    """Return one line; a missing rating is null, and only an image that could not be read has `error`."""
    if isinstance(found, DataError):
        values = {'image': path, 'rating': None, 'status': 'failed', 'reasoning_text': '', 'error': str(found)}
    else:
        rating = None if found.rating != found.rating else round(found.rating, 6)
        values = {'image': path, 'rating': rating, 'status': found.status, 'reasoning_text': found.reasoning_text}
    return json.dumps(values, ensure_ascii=False)
