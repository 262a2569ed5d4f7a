"""Write tables and texts for public images that people scored, from clones."""

import argparse
from pathlib import Path

from pyiqa_rali.cli.arguments import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--repositories', default='datasets/repositories', metavar='DIR',
                        help='folder of the clones; they are only read (default: %(default)s)')
    parser.add_argument('--out', default='datasets', metavar='DIR', help='folder to write to (default: %(default)s)')
    parser.add_examples(
        ('pyiqa-rali prepare-people', 'tables of the sets that are there, and texts of their training images'),
        ('pyiqa-rali prepare-people --repositories clones/ --out data/', ''),
        notes='Clone the sets first, such as: git clone --depth 1 https://github.com/nisarahmedrana/BIQ2021 '
              'datasets/repositories/BIQ2021. BIQ2021 is one repository. MMP-2k is two, '
              'SJHPCJS/MMP-2K-Subjective-Study-Platform and Future-IQA/MMP-2k, and so is the part of TID2013, '
              'edoardore/MTurkImageQuality and parag2489/Image-Quality. AGIQA-3K, lcysyzxdxc/AGIQA-3k-Database, is a table; '
              'unpack its images into the folder images of the clone. Look at their licences.')


def run(args: argparse.Namespace) -> int:
    """Write, and print what there is.

    Raises:
        OptionError: no set is there.
        DataError: images are missing.
    """
    from pyiqa_rali.data.people_sets import prepare
    for found in prepare(Path(args.repositories), Path(args.out)):
        counts = ', '.join(f'{count} {part}' for part, count in found.counts.items() if count)
        print(f'{found.table}: {counts}')
        for path in found.texts:
            print(f'  {path}')
        if found.elsewhere is not None:
            print(f'  images: those of {found.elsewhere}, which were there before')
    return 0
