"""Convert the released RALI folder into one checkpoint file."""

import argparse

from pyiqa_rali.checkpoints.format import save_checkpoint
from pyiqa_rali.checkpoints.released import read_released


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('folder', metavar='FOLDER', help='the released folder: best/, ckpt.pt, pca.pkl, basis.npz')
    parser.add_argument('out', metavar='OUT', help='the safetensors file to write')


def run(args: argparse.Namespace) -> int:
    """Read the folder as data and write our checkpoint."""
    tensors, metadata = read_released(args.folder)
    save_checkpoint(args.out, tensors, metadata)
    print(f'{args.out}: {len(tensors)} tensors, scores from {metadata["mos_range"][0]:g} to {metadata["mos_range"][1]:g}.')
    return 0
