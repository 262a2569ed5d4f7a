"""Let a reasoning model write the texts that RALI is aligned with."""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyiqa_rali.cli.arguments import (
    CommandParser,
    add_model,
    add_model_settings,
    add_reading_settings,
    check_positive,
    data_set_of,
    model_settings,
    reading_settings,
)
from pyiqa_rali.cli.cluster import add_cluster, cluster_options
from pyiqa_rali.core.errors import OptionError, some
from pyiqa_rali.core.ray_cluster import ClusterOptions
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.data.image_finder import ImageFinder

if TYPE_CHECKING:
    from pyiqa_rali.vlm.loading import ReasoningModel
    from pyiqa_rali.vlm.settings import ReasonerSettings
    from pyiqa_rali.vlm.vllm_backend import VllmCompleter
    from pyiqa_rali.vlm.write_texts import SharedWriting, WritingOptions


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='*', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    parser.add_argument('--opt', metavar='FILE', help="take the images of an option file's data set instead")
    parser.add_argument('--dataset', default='train', metavar='SECTION', help='which of its data sets (default: train)')
    add_model(parser)
    parser.add_argument('--out', required=True, metavar='JSONL', help='the file to write')
    parser.add_argument('--texts-per-image', type=int, default=4, metavar='N', help='different ones (default: %(default)s)')
    parser.add_argument('--backend', choices=('transformers', 'vllm'), default='transformers',
                        help='vllm is faster on a GPU and must be installed (default: %(default)s)')
    group = parser.add_rare_group('how texts are drawn')
    group.add_argument('--temperature', type=float, default=1.0, help='of sampling (default: %(default)s)')
    group.add_argument('--top-k', type=int, metavar='K', help='only the K most likely tokens may follow (default: all)')
    group.add_argument('--top-p', type=float, metavar='P',
                       help='only the most likely tokens that together have this probability (default: all)')
    group.add_argument('--attempts', type=int, default=8, metavar='N',
                       help='for a text without rating, or one that an image has already (default: %(default)s)')
    group.add_argument('--no-rating', action='store_true', help='take texts that no rating follows, from a model trained on '
                       'texts alone whose folder does not say so')
    add_model_settings(parser)
    add_reading_settings(parser)
    add_cluster(parser, 'write', 'ray lets the processes of a cluster share the images, each with a model of its own, and the '
                'file is the same')
    parser.add_examples(
        ('pyiqa-rali write-texts --opt options/rali.yml --model MODEL --out texts.jsonl', ''),
        ('pyiqa-rali write-texts photos/ --model MODEL --texts-per-image 8 --backend vllm --out texts.jsonl', ''),
        ('pyiqa-rali write-texts photos/ --model MODEL --engine ray --gpus-per-actor 1 --out texts.jsonl', ''),
        notes='A run that was stopped continues when it is started again with the same arguments. Each text records its seed '
              'and model; JSONL.json beside the file records prompt and settings.')


def run(args: argparse.Namespace) -> int:
    """Write and report."""
    from pyiqa_rali.core.processes import world_size
    from pyiqa_rali.vlm.write_texts import WritingOptions, write_texts
    if world_size() > 1:
        raise OptionError(f'{world_size()} processes would write the same file. Start write-texts without torchrun or '
                          'accelerate; --engine ray shares the images among processes, GPUs and machines.')
    cluster = cluster_options(args)
    check_positive(args, 'texts_per_image', 'attempts')
    settings = model_settings(args)
    if not args.temperature > 0:
        raise OptionError(f'--temperature: {args.temperature} must be above 0.')
    if bool(args.images) == bool(args.opt):
        raise OptionError('give either images or folders, or --opt FILE.')
    reading = reading_settings(args)
    if args.opt and reading != READING:
        raise OptionError('--as-stored, --pixel-limit: with --opt, the data set says how its pictures are read (upright, '
                          'pixel_limit).')
    files = [Path(path) for path in ImageFinder(args.images)] if args.images else files_of(args.opt, args.dataset)
    known = None
    if args.opt:
        from pyiqa_rali.vlm.tables import known_distortions
        name, values, reading = data_set_of(args.opt, args.dataset)
        known = known_distortions(name, values, 0)
    if not files:
        raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
    options = WritingOptions(args.texts_per_image, args.seed, args.temperature, settings.max_new_tokens, args.batch_size,
                             args.attempts, args.top_k, args.top_p)
    completer = shared = None
    if cluster is not None:
        reasoner, shared = shared_writing(args, settings, options, cluster, reading)
    elif args.backend == 'vllm':
        reasoner, completer = load_for_vllm(args, settings)
    else:
        reasoner = settings.load()
    reasoner.asked.with_rating &= not args.no_rating
    report = write_texts(reasoner, files, Path(args.out), options, completer=completer, reading=reading,
                         distortions=known, shared=shared)
    print(f'{args.out}: {report.texts} texts on {report.images} images. Tried again: {report.unparsed} without reasoning or '
          f'rating, {report.repeated} that the image had already.', file=sys.stderr)
    if report.short:
        print(f'{len(report.short)} images have fewer than {args.texts_per_image} texts: {some(report.short)}.',
              file=sys.stderr)
    return 0


def files_of(opt: str, section: str) -> list[Path]:
    """Return the image files of a data set in an option file; see `data_set_of`."""
    from pyiqa_rali.vlm.tables import image_files
    name, values, _ = data_set_of(opt, section)
    return image_files(name, values, 0)


def shared_writing(args: argparse.Namespace, settings: 'ReasonerSettings', options: 'WritingOptions', cluster: ClusterOptions,
                   reading: ReadingOptions) -> 'tuple[ReasoningModel, SharedWriting]':
    """Return the model without its weights, and what lets the processes of a cluster write.

    Raises:
        OptionError: vLLM is not available, or does not support an option.
    """
    from pyiqa_rali.vlm.cluster_writing import (
        ClusterWriting,
        VllmWriting,
        load_for_texts,
        load_without_weights_for_texts,
    )
    from pyiqa_rali.vlm.loading import identity
    if args.backend == 'transformers' and settings.device is None and not cluster.gpus_per_actor:
        settings.device = 'cpu'  # Ray shows no GPU to a process that asked for none
    reasoner = settings.load_without_weights()
    with_rating, model = reasoner.asked.with_rating and not args.no_rating, identity(reasoner.folder)
    if args.backend == 'vllm':
        _refuse_for_vllm(args)
        load = functools.partial(load_without_weights_for_texts, settings, with_rating)
        return reasoner, VllmWriting(reasoner, load, model, options, cluster, reading)
    return reasoner, ClusterWriting(functools.partial(load_for_texts, settings, with_rating), model, options, cluster, reading)


def load_for_vllm(args: argparse.Namespace, settings: 'ReasonerSettings') -> tuple['ReasoningModel', 'VllmCompleter']:
    """Return the model without its weights, and the completer that loads them itself and writes in place of transformers.

    Raises:
        OptionError: vLLM is not available, or does not support an option.
    """
    from pyiqa_rali.vlm.vllm_backend import VllmCompleter
    _refuse_for_vllm(args)
    reasoner = settings.load_without_weights()
    return reasoner, VllmCompleter(reasoner)


def _refuse_for_vllm(args: argparse.Namespace) -> None:
    """Raise OptionError for options that vLLM does not follow."""
    if args.attn_implementation is not None:
        raise OptionError(f'--attn-implementation: {args.attn_implementation} is for --backend transformers; vLLM chooses its '
                          'own. Leave it out.')
    if args.device not in (None, 'cuda'):
        raise OptionError(f'--device: {args.device} is for --backend transformers; vLLM takes the first GPU that it sees. '
                          'Leave it out, or choose the GPU with CUDA_VISIBLE_DEVICES.')
