"""Let a reasoning model describe and rate images."""

import argparse
import json
import sys
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import ImageFinder

MODES = ('expectation', 'greedy', 'mean')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    parser.add_argument('--model', required=True, metavar='FOLDER_OR_REPO',
                        help='a vision-language model: a folder, or owner/name[:folder] on the hub')
    add_model_arguments(parser)
    parser.add_argument('--mode', choices=MODES, default='expectation', help='how the rating is had (default: %(default)s)')
    parser.add_argument('--num-samples', type=int, default=5, metavar='N', help='for --mode mean (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='one JSON object a line instead of text')


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a reasoning model is loaded and run."""
    parser.add_argument('--rating-range', nargs=2, type=float, metavar=('LOW', 'HIGH'),
                        help='scale of its ratings, for a model whose folder does not say')
    parser.add_argument('--prompt', help="question instead of the model's own")
    parser.add_argument('--dtype', choices=('auto', 'float32', 'bfloat16', 'float16'), default='auto')
    parser.add_argument('--attn-implementation', metavar='NAME', help='such as sdpa or flash_attention_2')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    parser.add_argument('--max-pixels', type=int, metavar='N', help='larger pictures are made smaller')
    parser.add_argument('--max-new-tokens', type=int, default=512, metavar='N', help='longest text (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, metavar='N', help='images at once (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of sampling (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Describe, image after image; one that cannot be read has a line with the reason.

    Returns:
        0; 1 when there are images without a rating.
    """
    check_positive(args, 'num_samples', 'max_new_tokens', 'batch_size')
    files = list(ImageFinder(args.images))
    if not files:
        raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
    net = make_scorer(args)
    failed = 0
    for start in range(0, len(files), args.batch_size):
        for path, found in described(net, files[start:start + args.batch_size]):
            failed += isinstance(found, DataError) or found.status == 'failed'
            print(as_json(path, found) if args.json else as_text(path, found), flush=True)
    if failed:
        print(f'{failed} of {len(files)} images have no rating.', file=sys.stderr)
    return 1 if failed else 0


def described(net, files: list[str]) -> list[tuple[str, Any]]:
    """Return each file with its description, or with the DataError that says why it has none."""
    found = [picture_or_error(net.reasoner, path) for path in files]
    descriptions = iter(net.describe([each for each in found if not isinstance(each, DataError)]))
    return [(path, each if isinstance(each, DataError) else next(descriptions))
            for path, each in zip(files, found, strict=True)]


def picture_or_error(reasoner, path: str):
    """Return the picture of a file, or the DataError that says why the model cannot be shown it."""
    from pyiqa_rali.vlm.write_texts import picture_for
    try:
        return picture_for(reasoner, path)
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


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raise OptionError for an argument that is given and below 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise OptionError(f'--{name.replace("_", "-")}: {value} must be 1 at least.')


def make_scorer(args: argparse.Namespace):
    """Load the model on its device.

    Raises:
        OptionError: an argument cannot be used, such as a device that is not there.
        CheckpointError: the model cannot be had or loaded.
    """
    import torch

    from pyiqa_rali.scoring.metrics import torch_device
    from pyiqa_rali.vlm.scorer import ReasoningScorer
    check_positive(args, 'max_pixels')
    device = torch_device(args.device) or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    net = ReasoningScorer(args.model, mode=args.mode, num_samples=args.num_samples, seed=args.seed, dtype=args.dtype,
                          max_new_tokens=args.max_new_tokens, batch_size=args.batch_size, max_pixels=args.max_pixels,
                          attn_implementation=args.attn_implementation, score_prompt=args.prompt,
                          rating_range=args.rating_range)
    return net.to(device)
