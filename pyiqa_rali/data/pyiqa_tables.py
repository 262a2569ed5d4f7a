"""pyiqa's data sets with tables that are read here: names stay text, numbers are numbers, and errors name file and line."""

import csv
import io
import logging
import os
from typing import Any

import numpy as np
import pandas as pd
from pyiqa.data.ava_dataset import AVADataset
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.data.general_fr_dataset import GeneralFRDataset
from pyiqa.data.general_nr_dataset import GeneralNRDataset
from pyiqa.data.livechallenge_dataset import LIVEChallengeDataset

from pyiqa_rali.core.errors import DataError, some
from pyiqa_rali.core.messages import warn_once
from pyiqa_rali.data.delimited import DelimitedTable, read_delimited
from pyiqa_rali.data.image_formats import image_extensions

PHASES = ('train', 'val', 'test')

logger = logging.getLogger(__name__)


class ReadTable(BaseIQADataset):
    """The part of pyiqa's data sets that reads the table; it follows the data set's own class in the order of bases.

    Attributes:
        names_at: the columns that hold names of files; the MOS is in the column after the last of them, and that last
            one names the image.
        written: the table's cells as they are written.
    """

    names_at: tuple[int, ...] = (0,)

    def init_path_mos(self, opt: dict[str, Any]) -> None:
        """Read `meta_info_file` into `meta_info` and `paths_mos`.

        Raises:
            DataError: the file or a row cannot be used; the message names file and line.
        """
        table = read_delimited(opt['meta_info_file'], least_columns=len(self.names_at) + 1)
        mos = self.names_at[-1] + 1
        check_headings(table, self.names_at)
        roots = [opt.get('dataroot_ref') or opt['dataroot_target'], opt['dataroot_target']][-len(self.names_at):]
        names = [[existing_name(name, root, table.where(row)) for row, name in enumerate(table.cells(column))]
                 for column, root in zip(self.names_at, roots, strict=True)]
        labels = table.numbers(mos)
        check_repeats(names[-1], labels, [table.where(row) for row in range(len(labels))],
                      _phases(table, opt))
        frame = _as_pandas_would(table)
        for column, values in zip((*self.names_at, mos), (*names, labels), strict=True):
            frame.isetitem(column, np.array(values, dtype=float if column == mos else object))
        self.meta_info, self.written = frame, table
        self.paths_mos = frame.values.tolist()


class NoReferenceTable(GeneralNRDataset, ReadTable):
    """pyiqa's GeneralNRDataset: image and MOS."""


class FullReferenceTable(GeneralFRDataset, ReadTable):
    """pyiqa's GeneralFRDataset: reference, image and MOS."""

    names_at = (0, 1)


class ChallengeTable(LIVEChallengeDataset, ReadTable):
    """pyiqa's LIVEChallengeDataset."""


class AvaTable(AVADataset, ReadTable):
    """pyiqa's AVADataset: image, MOS, and how often each rating was given."""


TABLES = {'GeneralNRDataset': NoReferenceTable, 'GeneralFRDataset': FullReferenceTable,
          'LIVEChallengeDataset': ChallengeTable, 'AVADataset': AvaTable}


def check_headings(table: DelimitedTable, names_at: tuple[int, ...]) -> None:
    """Reject a table whose first line is an image, or whose first column counts the rows.

    Raises:
        DataError: with file and line.
    """
    image = names_at[-1]
    if os.path.splitext(table.columns[image])[1].lower() in image_extensions():
        raise DataError(f'{table.path}, line 1: "{table.columns[image]}" is an image, and a line of headings is expected. '
                        f'Put one above it, such as {"reference,image,mos" if len(names_at) > 1 else "image,mos"}.')
    first = table.cells(0)
    counted = [[str(number) for number in range(start, start + len(first))] for start in (0, 1)]
    if not table.columns[0] and first in counted:
        raise DataError(f'{table.path}, line 1: the first column has no heading and counts the rows; the names of the '
                        'images are expected there. Write the table without that column (pandas: index=False).')


def existing_name(name: str, root: str, where: str) -> str:
    """Return a name under which there is a file below the root, or the name as it is written.

    A backslash separates folders on Windows and is an ordinary character elsewhere, and spaces at the ends may or may not
        belong to a name: the disk decides.

    Raises:
        DataError: there is no name.
    """
    if not name.strip():
        raise DataError(f'{where}: has no image in the column of the names.')
    if '\\' not in name and name == name.strip():
        return name  # saves a disk access for nearly all names
    candidates = (name, name.strip(), name.replace('\\', '/'), name.strip().replace('\\', '/'))
    return next((each for each in candidates if os.path.exists(os.path.join(root, each))), name)


def check_repeats(names: list[str], labels: list[float], where: list[str], phases: list[str]) -> None:
    """Reject an image with two MOS or in two splits, and log images that appear twice with the same MOS.

    Args:
        names: of the images.
        labels: their MOS.
        where: file and line of each.
        phases: the split of each, as the table has it; empty without one.

    Raises:
        DataError: an image has two MOS, or is in two of train, val and test.
    """
    first: dict[str, int] = {}
    again = []
    for row, name in enumerate(names):
        before = first.setdefault(os.path.normpath(name), row)
        if before == row:
            continue
        if labels[before] != labels[row]:
            raise DataError(f'{where[row]}: {name} has the MOS {labels[row]:g}, and {labels[before]:g} at {where[before]}. '
                            'Keep one of the two rows.')
        if phases and phases[before] != phases[row] and {phases[before], phases[row]} <= set(PHASES):
            raise DataError(f'{where[row]}: {name} is in the split "{phases[row]}", and in "{phases[before]}" at '
                            f'{where[before]}: what is trained on must not be tested on. Keep one of the two rows.')
        again.append(name)
    if again:
        warn_once(logger, f'{where[0].rpartition(", ")[0]}: {len(again)} rows name an image that an earlier row names, with '
                  f'the same MOS: {some(again)}. Each of these images counts as often as it appears.')


def split_column(opt: dict[str, Any]) -> str | None:
    """Return the name of the column with each image's split; a number stands for one of pyiqa's names."""
    split_index = opt.get('split_index')
    if not isinstance(split_index, int):
        return split_index
    return f'ratio{opt.get("split_ratio", "802")}_seed123_split_{split_index:02d}'


def _phases(table: DelimitedTable, opt: dict[str, Any]) -> list[str]:
    column = split_column(opt)
    return [cell.strip() for cell in table.cells(table.columns.index(column))] if column in table.columns else []


def _as_pandas_would(table: DelimitedTable) -> pd.DataFrame:
    """Return the table with the types that pandas gives to its columns."""
    plain = io.StringIO()
    csv.writer(plain).writerows([table.columns, *([cell.strip() for cell in row] for row in table.rows)])
    plain.seek(0)
    return pd.read_csv(plain, low_memory=False, skip_blank_lines=False)
