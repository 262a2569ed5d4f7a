"""Select the images of a table of scores that clear a bar: a list, links, copies or new shards."""

import argparse
import os
import re
import sys
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, add_reading_settings, reading_settings
from pyiqa_rali.core.errors import OptionError, some
from pyiqa_rali.core.messages import progress_bar


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('table', metavar='TABLE', help='of pyiqa-rali score: .csv, .jsonl, .parquet, or a folder of '
                        'Parquet files')
    bars = parser.add_mutually_exclusive_group(required=True)
    bars.add_argument('--above', type=float, metavar='X', help='keep scores above X')
    bars.add_argument('--below', type=float, metavar='X', help='keep scores below X')
    bars.add_argument('--best', metavar='SHARE', help='keep the share of the images, such as 10%% or 0.1, with the best '
                      'quality')
    bars.add_argument('--worst', metavar='SHARE', help='the same with the worst quality')
    parser.add_argument('--surely', action='store_true', help='with --above and --below: the whole interval (score --interval) '
                        'must lie there')
    parser.add_argument('--better', choices=('higher', 'lower'), help='with --best and --worst: which scores mean good quality '
                        '(default: as the metric has it)')
    group = parser.add_argument_group('what becomes of the images (default: their names on the screen)')
    group.add_argument('--list', metavar='FILE', dest='list_file', help='write their names, one per line')
    group.add_argument('--links', metavar='FOLDER', help='make symbolic links to them')
    group.add_argument('--copies', metavar='FOLDER', help='copy them, those in shards and at addresses too')
    group.add_argument('--shards', metavar='FOLDER', help='write new tar shards, with everything that belongs to each image')
    group.add_argument('--shard-size', type=int, default=1000, metavar='N', help='images in a shard (default: %(default)s)')
    group.add_argument('--sheet', metavar='PNG', help='draw the pictures just above and just below the bar')
    group = parser.add_rare_group('tables of pictures')
    group.add_argument('--image-column', metavar='NAME', help='of Parquet and Arrow files, the column with the pictures '
                       '(default: the only one that can hold them)')
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali select scores.csv --above 3.5 --list good.txt', ''),
        ('pyiqa-rali select scores.csv --best 10% --sheet bar.png', 'look at the bar first'),
        ('pyiqa-rali select scores.csv --above 3.5 --surely --copies good/', 'the interval clears the bar'),
        ('pyiqa-rali select scores.parquet --worst 5% --links bad/', ''),
        ('pyiqa-rali select s.parquet --above 3.5 --shards good/', 'captions come along'),
        notes='Images without a score are never kept; how many there are is told. Exit status 1: images could not be written.')


def run(args: argparse.Namespace) -> int:
    """Select, write what was asked for, and count.

    Returns:
        0; 1 when images could not be written.

    Raises:
        OptionError, DataError, OSError: nothing can be selected; the message says why.
    """
    from pyiqa_rali.scoring import selected_files as files
    from pyiqa_rali.scoring.selection import select
    reading = reading_settings(args)
    for folder, option in ((args.links, '--links'), (args.copies, '--copies'), (args.shards, '--shards')):
        if folder:
            files.refuse_filled(folder, option)
    for path, option in ((args.list_file, '--list'), (args.sheet, '--sheet')):
        if path and os.path.exists(path) and os.path.exists(args.table) and os.path.samefile(path, args.table):
            raise OptionError(f'{option}: {path} is the table itself. Give another name.')
    found = select(args.table, above=args.above, below=args.below, best=_share(args.best, '--best'),
                   worst=_share(args.worst, '--worst'), surely=args.surely, lower_better=_lower_better(args),
                   near=files.NEAR if args.sheet else 0)
    print(f'{found.kept} images kept: {found.bar} ({found.metric}); {found.left} not, {found.without} without a score'
          + (f'; {found.at_bar} stand exactly at the bar' if found.at_bar else ''), file=sys.stderr)
    errors: dict[str, str] = {}
    if args.sheet:
        print(files.draw_bar_sheet(args.sheet, found, reading, args.image_column))
    if args.list_file:
        errors |= files.write_list(args.list_file, found).errors
    if args.links:
        errors |= _told(files.link_files(args.links, found), args.links)
    for folder, write in ((args.copies, _copies), (args.shards, _shards)):
        if folder:
            with progress_bar(total=found.kept, desc='select', unit='image') as bar:
                errors |= _told(write(args, found, reading, bar.update), folder)
    if not any((args.sheet, args.list_file, args.links, args.copies, args.shards)):
        for row in found.rows():
            print(row.image)
    for name, reason in list(errors.items())[:20]:
        print(f'{name}\terror: {reason}', file=sys.stderr)
    if errors:
        print(f'{len(errors)} images could NOT be written: {some(errors)}', file=sys.stderr)
    return 1 if errors else 0


def _copies(args: argparse.Namespace, found: Any, reading: Any, done: Any) -> Any:
    from pyiqa_rali.scoring.selected_files import copy_files
    return copy_files(args.copies, found, reading, args.image_column, done)


def _shards(args: argparse.Namespace, found: Any, reading: Any, done: Any) -> Any:
    from pyiqa_rali.scoring.selected_files import write_shards
    return write_shards(args.shards, found, args.shard_size, reading, args.image_column, done)


def _told(written: Any, folder: str) -> dict[str, str]:
    in_shards = f' in {written.files} shards' if written.files else ''
    print(f'{written.count} images{in_shards} in {folder}', file=sys.stderr)
    return written.errors


def _share(text: str | None, option: str) -> float | None:
    from pyiqa_rali.scoring.selection import share_of
    try:
        return None if text is None else share_of(text)
    except ValueError:
        raise OptionError(f'{option}: {text} must be a share above 0 and up to 1, such as 0.1 or 10%.') from None


def _lower_better(args: argparse.Namespace) -> bool | None:
    """Return whether low scores mean good quality: as the user says, or as pyiqa's table has it for weights that it knows."""
    if args.better is not None:
        if args.best is None and args.worst is None:
            raise OptionError('--better: is only for --best and --worst. Leave it out.')
        return args.better == 'lower'
    if args.best is None and args.worst is None:
        return None
    from pyiqa_rali.scoring.selection import table_rows
    row = next(table_rows(args.table), None)
    return None if row is None else direction_of(row.metric)


def direction_of(label: str) -> bool | None:
    """Return whether low scores of a metric mean good quality; None where weights of the user's own decide that.

    Args:
        label: what tables call it, such as 'piqe' or 'rali:mine.safetensors@0af31c20'.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    from pyiqa_rali.model.checkpoint import checkpoint_file, load_metadata
    name, mark, rest = re.match(r'([^:@ ]*)([:@]?)(.*)', label).groups()  # type: ignore[union-attr]  # matches anything
    path = re.sub(r'@[0-9a-f]{8}( .*)?$', '', rest)
    if mark == ':' and os.path.exists(path):
        return bool(load_metadata(checkpoint_file(path))['lower_better'])
    if mark or name not in DEFAULT_CONFIGS:
        return None
    return bool(DEFAULT_CONFIGS[name].get('lower_better', False))
