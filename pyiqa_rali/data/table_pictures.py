"""The pictures of pyiqa's tables, read by this package's reader in place of pyiqa's own, and augmented by pyiqa."""

import os
from typing import Any

from PIL import Image

from pyiqa_rali.data.image_files import ReadingOptions, read_rgb

# Where pyiqa defines items that are a row's image, or reference and image, after the transforms of `augment`.
ITEMS_OF_ROWS = ('pyiqa.data.general_nr_dataset', 'pyiqa.data.general_fr_dataset', 'pyiqa.data.ava_dataset',
                 'pyiqa.data.piq_dataset')


def reads_rows(base: Any) -> bool:
    """Whether the items of a data set are the pictures of its rows, which can be read here."""
    return type(base).__getitem__.__module__ in ITEMS_OF_ROWS


def image_column(row: list[Any]) -> int:
    """Return where a row of pyiqa's tables names its image: full-reference tables name the reference before it."""
    return 1 if len(row) > 2 and isinstance(row[1], str) else 0


def row_paths(base: Any, index: int) -> list[str]:
    """Return the image of a row, and its reference if it has one."""
    root = getattr(base, 'dataroot', '')  # of AVADataset, whose rows hold no paths
    row = base.paths_mos[index]
    column = image_column(row)
    return [os.path.join(root, str(row[each])) for each in range(column, -1, -1)]


def row_pictures(base: Any, index: int, options: ReadingOptions) -> list[Image.Image]:
    """Return the image of a row, and its reference if it has one, with the same augmentation.

    Raises:
        UnreadableImage: one of them cannot be read; the message names it.
    """
    pictures = [Image.fromarray(read_rgb(path, options)) for path in row_paths(base, index)]
    if len(pictures) == 1:
        for transform in base.trans.transforms[:-1]:  # the last one makes a tensor
            pictures = [transform(pictures[0])]
        return pictures
    return list(base.paired_trans(pictures))
