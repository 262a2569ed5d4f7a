"""Make your own export the default weights of the metric "rali"."""

import argparse
import os

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.checkpoint import checkpoint_file, load_metadata
from pyiqa_rali.model.default import VARIABLE, read_default, reset_default, set_default
from pyiqa_rali.model.locate import FOLDER_VARIABLE


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', nargs='?', metavar='FILE', help='an export of pyiqa_rali.train, file or folder')
    parser.add_argument('--show', action='store_true', help='show the present default')
    parser.add_argument('--reset', action='store_true', help='go back to the released checkpoint')
    parser.add_examples(
        ('pyiqa-rali use experiments/RALI_demo/models/rali.safetensors', 'create_metric("rali") now takes it'),
        ('pyiqa-rali use --show', ''), ('pyiqa-rali use --reset', ''),
        notes=f'The environment variable {VARIABLE}=FILE takes precedence over this choice.')


def run(args: argparse.Namespace) -> int:
    """Set, show or reset the default."""
    if sum([args.checkpoint is not None, args.show, args.reset]) != 1:
        raise OptionError('use: give either a FILE, --show or --reset.')
    if args.reset:
        print('rali is the released checkpoint again.' if reset_default() else 'No default was set.')
    elif args.show:
        print(f'rali: {shown_default()}')
    else:
        path = checkpoint_file(args.checkpoint)
        metadata = load_metadata(path)
        print(f'rali is now {set_default(path)["path"]} ({metadata.get("name", "unnamed")}).')
    return 0


def shown_default() -> str:
    """Return what `rali` refers to, in the order in which it is looked for."""
    for variable in (VARIABLE, FOLDER_VARIABLE):
        if variable == FOLDER_VARIABLE and (choice := read_default()):
            return choice['path']
        if os.environ.get(variable):
            return f'{os.environ[variable]} (by {variable})'
    return 'the released checkpoint (no default is set)'
