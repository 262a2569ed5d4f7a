"""Convert the released RALI folder into one checkpoint file."""

import argparse
from pathlib import Path

from pyiqa_rali.cli.arguments import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('source', metavar='SOURCE', help='the released folder (best/, ckpt.pt, pca.pkl, basis.npz), rali for '
                                                         'the release on the hub, or another repository as owner/name:folder')
    parser.add_argument('out', metavar='OUT', help='the .safetensors or .pth file to write')
    parser.add_argument('--revision', metavar='NAME', help='branch, tag or commit of the repository on the hub')
    parser.add_examples(
        ('pyiqa-rali convert RALI/ rali.safetensors', 'a copy of the released folder'),
        ('pyiqa-rali convert rali rali.safetensors --revision main', 'from the hub'),
        notes='Pickles are read as data: nothing in them is run.')


def run(args: argparse.Namespace) -> int:
    """Read the release as data and write our checkpoint.

    Raises:
        CheckpointError: it cannot be found, or is not a released RALI.
        OptionError: a revision is given for a folder.
    """
    from pyiqa_rali.model.checkpoint import write_checkpoint
    tensors, metadata = _read(args.source, args.revision)
    write_checkpoint(args.out, tensors, metadata)
    print(f'{args.out}: {len(tensors)} tensors, scores from {metadata["mos_range"][0]:g} to {metadata["mos_range"][1]:g}.')
    return 0


def _read(source: str, revision: str | None) -> tuple[dict, dict]:
    from pyiqa_rali.core.errors import OptionError
    from pyiqa_rali.core.hub import is_hub_name
    from pyiqa_rali.model.locate import CHOICES, RELEASED
    from pyiqa_rali.model.release.conversion import fetch, read_fetched
    from pyiqa_rali.model.release.released import read_released
    if source == 'rali' and not Path(source).exists():
        source = RELEASED
    if Path(source).exists() or not is_hub_name(source):
        if revision:
            raise OptionError(f'--revision: {revision} is only for a repository on the hub; {source} is a folder. Leave it '
                              'out.')
        return read_released(source)
    return read_fetched(fetch(source, revision, CHOICES), source)
