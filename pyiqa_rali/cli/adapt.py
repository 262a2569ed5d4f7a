"""Refresh the basis of a checkpoint for a new domain, from images without labels."""

import argparse

from pyiqa_rali.cli.arguments import CommandParser, add_reading_settings, reading_settings, told_empty


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, or rali-lite')
    parser.add_argument('--images', nargs='+', required=True, metavar='IMAGES',
                        help='of the domain: files, folders, globs, lists, tar shards')
    parser.add_argument('--out', required=True, metavar='FILE', help='the .safetensors or .pth file to write')
    parser.add_argument('--method', default='means', metavar='HOW',
                        help='means: vectors move to the images that lean on them, scores stay; buckets: k-means in buckets of '
                             'the scores (default: %(default)s)')
    parser.add_argument('--strength', type=float, default=10.0, metavar='N',
                        help="with means: how many images a vector's old direction counts for (default: %(default)g)")
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of k-means (default: %(default)s)')
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali adapt rali-lite --images screenshots/ --out adapted.safetensors', ''),
        ('pyiqa-rali score screenshots/ --weights adapted.safetensors', 'use it'),
        notes='No labels are needed. Scores of these images keep mean and standard deviation. Intervals are left out: '
              'calibrate them again.')


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, and say what has changed.

    Returns:
        0; 1 when images cannot be read, or there is a folder, list, glob or shard without one.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from pyiqa_rali.scoring.sources import ImageSources
    from pyiqa_rali.training.rali.adapt import AdaptOptions, adapt
    sources = ImageSources(args.images, once=True)
    options = AdaptOptions(args.method, args.strength, seed=args.seed)
    found = adapt(args.checkpoint, sources, args.out, options, reading_settings(args))
    turned = '' if found.turned is None else f' Basis vectors turned by {found.turned:.1f} degrees on average.'
    print(f'{found.path}: a basis that follows {found.images} images; their scores changed by {found.changed:.3f} on average.'
          + turned)
    if found.without_interval:
        print('Its intervals are left out, because they belong to the scores before: calibrate adds new ones.')
    if found.without_prompts:
        print('Its alignment with prompts is left out, because it belongs to the basis before.')
    for line in found.unreadable:
        print(f'not readable: {line}')
    return 1 if told_empty(sources.empty) or found.unreadable else 0
