"""Let a reasoning model describe and rate images."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pyiqa_rali.cli.arguments import (
    CommandParser,
    add_images,
    add_model,
    add_model_settings,
    add_reading_settings,
    check_positive,
    model_settings,
    reading_settings,
    told_empty,
)
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.scoring.entries import ImageEntry, chunks, read_entry
from pyiqa_rali.scoring.sources import ImageSources
from pyiqa_rali.vlm.decoding import RELEASES

if TYPE_CHECKING:
    from PIL import Image

    from pyiqa_rali.vlm.loading import ReasoningModel
    from pyiqa_rali.vlm.scorer import ReasoningScorer

MODES = ('expectation', 'greedy', 'mean', 'release', 'at_once')


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    add_images(parser)
    add_model(parser)
    parser.add_argument('--mode', choices=MODES, default='expectation', help='how the rating is obtained (default: '
                                                                             '%(default)s)')
    parser.add_argument('--num-samples', type=int, default=5, metavar='N', help='for --mode mean (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='one JSON object per line instead of text')
    add_model_settings(parser)
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali describe photo.jpg --model ByteDance/Q-Insight:score_degradation --rating-range 1 5', ''),
        ('pyiqa-rali describe photos/ --model experiments/GRPO_koniq/models/reasoning --json', ''),
        notes='expectation: greedy reasoning, then the mean over the digits of the rating; greedy: the rating as written; '
              'mean: of sampled ratings; release: one rating, drawn as the code of qinsight or visualquality-r1 draws it; '
              'at_once: no reasoning, the rating alone. An image without a rating has a line with the reason; then the exit '
              'status is 1.')


def run(args: argparse.Namespace) -> int:
    """Describe images one after the other; an image that cannot be read gets a line with the reason.

    Returns:
        0; 1 when there are images without a rating, or a folder, list, glob or shard without an image.
    """
    check_positive(args, 'num_samples')
    settings = model_settings(args)
    reading = reading_settings(args)
    sources = ImageSources(args.images, once=False, fetching=reading.fetching)
    if args.mode == 'release' and settings.release and args.max_new_tokens is None:
        settings.max_new_tokens = RELEASES[settings.release].max_new_tokens
    net = settings.scorer(args.mode, args.num_samples)
    count = failed = 0
    for entries in chunks(sources, args.batch_size):
        for entry, found in described(net, entries, reading):
            count, failed = count + 1, failed + (isinstance(found, DataError) or found.status == 'failed')
            print(as_json(entry.name, found) if args.json else as_text(entry.name, found), flush=True)
    if failed:
        print(f'{failed} of {count} images have no rating.', file=sys.stderr)
    return 1 if told_empty(sources.empty) or failed else 0


def described(net: 'ReasoningScorer', entries: list[ImageEntry], reading: ReadingOptions) -> list[tuple[ImageEntry, Any]]:
    """Yield each image with its description, or with the DataError that says why it has none."""
    found = [picture_or_error(net.reasoner, entry, reading) for entry in entries]
    descriptions = iter(net.describe([each for each in found if not isinstance(each, DataError)]))
    return [(entry, each if isinstance(each, DataError) else next(descriptions))
            for entry, each in zip(entries, found, strict=True)]


def picture_or_error(reasoner: 'ReasoningModel', entry: ImageEntry, reading: ReadingOptions) -> 'Image.Image | DataError':
    """Return a picture, or the DataError that says why it cannot be shown to the model."""
    from PIL import Image

    from pyiqa_rali.vlm.write_texts import shown_picture
    try:
        return shown_picture(reasoner, Image.fromarray(read_entry(entry, reading)), entry.name)
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
