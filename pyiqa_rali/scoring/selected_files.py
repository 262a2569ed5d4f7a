"""What becomes of selected images: a list, links, copies, new shards, and a sheet of those near the bar.

Images are written with the bytes that they have; nothing is decoded for that. Folders appear when they are whole.
"""

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import atomic_folder, atomic_open
from pyiqa_rali.data.addresses import extension_of, is_address
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.data.image_formats import image_extensions
from pyiqa_rali.scoring.entries import ImageEntry, entry_bytes, read_entry
from pyiqa_rali.scoring.row_files import is_row_file
from pyiqa_rali.scoring.selection import Selection, TableRow
from pyiqa_rali.scoring.shards import BETWEEN, is_shard, shard_samples
from pyiqa_rali.scoring.sources import ImageSources

IN_A_SHARD = 1000
NEAR = 10  # pictures of the sheet on each side of the bar
EXTENSIONS = {'JPEG': '.jpg', 'MPO': '.jpg', 'TIFF': '.tif', 'JPEG2000': '.jp2', 'JXL': '.jxl'}
NOT_THERE = 'it is not there any more'


@dataclass
class Written:
    """What was written.

    Attributes:
        count: images.
        files: of shards, how many.
        errors: why images could not be written, by name.
    """

    count: int = 0
    files: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def container_of(name: str) -> str | None:
    """Return the shard, or the table of pictures, that holds an image of this name; None for a file.

    Example:
        >>> container_of('a.tar::b.jpg'), container_of('b.jpg')
        ('a.tar', None)
    """
    before, between, _ = name.partition(BETWEEN)
    return before if between and (is_shard(before) or is_row_file(before)) and not os.path.exists(name) else None


def write_list(path: str | os.PathLike, selection: Selection) -> Written:
    """Write the names of the kept images, one per line; a name with a line break is an error."""
    written = Written()
    with atomic_open(path, 'wb') as stream:
        for row in selection.rows():
            name = os.fsencode(row.image)
            if b'\n' in name or b'\r' in name:
                written.errors[repr(row.image)] = 'a list cannot hold a name with a line break'
                continue
            stream.write(name + b'\n')
            written.count += 1
    return written


def link_files(folder: str | os.PathLike, selection: Selection) -> Written:
    """Make a folder with a symbolic link to each kept image.

    Raises:
        OptionError: the folder has something in it, or images are no files of their own.
    """
    refuse_filled(folder, '--links')
    names = [row.image for row in selection.rows()]
    others = [name for name in names if is_address(name) or container_of(name)]
    if others:
        raise OptionError(f'--links: {len(others)} of the images are in shards or at addresses and cannot be linked: '
                          f'{some(others, 2)}. Give --copies or --shards.')
    written, targets = Written(), target_names(names)
    with atomic_folder(folder) as temporary:
        for name in names:
            if not os.path.exists(name):
                written.errors[name] = NOT_THERE
                continue
            target = temporary / targets[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.abspath(name))
            written.count += 1
    return written


def copy_files(folder: str | os.PathLike, selection: Selection, reading: ReadingOptions = READING,
               image_column: str | None = None, done: Callable[[], object] = lambda: None) -> Written:
    """Make a folder with a copy of each kept image, below the folders that they do not all have in common.

    Args:
        folder: new, or empty.
        selection: what is kept.
        reading: how addresses are tried.
        image_column: of Parquet and Arrow files.
        done: called after each image.

    Raises:
        OptionError: the folder has something in it.
    """
    refuse_filled(folder, '--copies')
    written, targets = Written(), target_names(row.image for row in selection.rows())
    with atomic_folder(folder) as temporary:
        for row, content in contents(selection.rows(), reading, image_column):
            if isinstance(content, str):
                written.errors[row.image] = content
            else:
                target = temporary / targets[row.image]
                if extension_of(target.name) not in image_extensions():
                    target = target.with_name(target.name + _sniffed(content))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                written.count += 1
            done()
    return written


def write_shards(folder: str | os.PathLike, selection: Selection, size: int = IN_A_SHARD, reading: ReadingOptions = READING,
                 image_column: str | None = None, done: Callable[[], object] = lambda: None) -> Written:
    """Write the kept images as new tar shards in webdataset's layout.

    Each sample has a running number, its image, `score.json` with the image's name, score and metric, and whatever else the
    sample had in the shard that it comes from.

    Args:
        folder: new, or empty.
        selection: what is kept.
        size: samples in a shard.
        reading: how addresses are tried.
        image_column: of Parquet and Arrow files.
        done: called after each image.

    Raises:
        OptionError: the folder has something in it, or the size is below 1.
    """
    refuse_filled(folder, '--shards')
    if size < 1:
        raise OptionError(f'--shard-size: {size} must be at least 1.')
    written = Written()
    with atomic_folder(folder) as temporary:
        samples = _samples(selection.rows(), reading, image_column)
        good = _only_good(samples, written, done)
        for number, shard in enumerate(iter(lambda: list(itertools.islice(good, size)), [])):
            with tarfile.open(temporary / f'{number:06d}.tar', 'w') as tar:
                for rows, parts in shard:
                    _add_sample(tar, f'{written.count:09d}', rows, parts)
                    written.count += 1
            written.files += 1
    return written


def refuse_filled(folder: str | os.PathLike, option: str) -> None:
    """Raise OptionError if a folder that is to be written has something in it, or is a file."""
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise OptionError(f'{option}: {os.fspath(folder)} already exists. Give the name of a new folder.')


def target_names(names: Iterable[str]) -> dict[str, str]:
    """Return where each image goes below a folder: its path, without the folders that all images have in common.

    Members of shards go below a folder with the shard's name, and images at addresses below their host or bucket.

    Example:
        >>> target_names(['d/a/1.jpg', 'd/b.tar::x/2.jpg', 'd/b.tar::x/2.jpg::2'])
        {'d/a/1.jpg': 'a/1.jpg', 'd/b.tar::x/2.jpg': 'b.tar/x/2.jpg', 'd/b.tar::x/2.jpg::2': 'b.tar/x/2.2.jpg'}
    """
    parts = {name: _parts(name) for name in names}
    folders = [each[:-1] for each in parts.values()]
    common = sum(1 for _ in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*folders, strict=False)))
    return {name: '/'.join(each[common:]) for name, each in parts.items()}


def _parts(name: str) -> list[str]:
    path = name
    repeated = re.fullmatch(r'(.*)(\.[^./:]+)::(\d+)', name)
    if repeated and container_of(name) and extension_of(repeated[1] + repeated[2]) in image_extensions():
        path = f'{repeated[1]}.{repeated[3]}{repeated[2]}'
    path = path.replace('://', '/').replace(BETWEEN, '/').replace('?', '_')
    return ['__' if part == '..' else part for part in path.split('/') if part not in ('', '.')]


def contents(rows: Iterable[TableRow], reading: ReadingOptions = READING,
             image_column: str | None = None) -> Iterator[tuple[TableRow, bytes | str]]:
    """Yield the bytes of each image, or why they cannot be read; shards and tables of pictures are read once each."""
    for row, entry in entries_of_rows(rows, reading, image_column):
        try:
            yield row, entry if isinstance(entry, str) else entry_bytes(entry, reading)
        except (DataError, OSError) as error:
            yield row, getattr(error, 'reason', '') or getattr(error, 'strerror', None) or str(error)


def entries_of_rows(rows: Iterable[TableRow], reading: ReadingOptions = READING,
                    image_column: str | None = None) -> Iterator[tuple[TableRow, ImageEntry | str]]:
    """Yield where each image of a table is, or why it is not found."""
    for container, group in itertools.groupby(rows, key=lambda row: container_of(row.image)):
        if container is None:
            for row in group:
                yield row, ImageEntry(row.image, row.image)
            continue
        wanted = {row.image: row for row in group}
        reason = NOT_THERE
        with suppress(FileNotFoundError):
            for entry in ImageSources([container], image_column=image_column, fetching=reading.fetching):
                if entry.name == container and entry.error:
                    reason = entry.error
                if entry.name in wanted:
                    yield wanted.pop(entry.name), entry
                    if not wanted:
                        break
        for row in wanted.values():
            yield row, reason


Sample = tuple[list[TableRow], dict[str, bytes]]


def _samples(rows: Iterable[TableRow], reading: ReadingOptions,
             image_column: str | None) -> Iterator[Sample | tuple[TableRow, str]]:
    """Yield the rows and parts of each sample, or a row and why it has none; parts are named by what follows the first dot."""
    for container, group in itertools.groupby(rows, key=lambda row: container_of(row.image)):
        if container is None or not is_shard(container):
            for row, content in contents(group, reading, image_column):
                if isinstance(content, str):
                    yield row, content
                else:
                    extension = extension_of(row.image)
                    yield [row], {(extension if extension in image_extensions() else _sniffed(content))[1:]: content}
            continue
        wanted = {row.image: row for row in group}
        reason = NOT_THERE
        try:
            for names, parts in shard_samples(container, reading.fetching):
                kept = [wanted.pop(name) for name in names if name in wanted]
                if kept:
                    yield kept, parts
                if not wanted:
                    break
        except (DataError, OSError, EOFError) as error:
            reason = getattr(error, 'strerror', None) or str(error)
        for row in wanted.values():
            yield row, reason


def _only_good(samples: Iterable[Sample | tuple[TableRow, str]], written: Written,
               done: Callable[[], object]) -> Iterator[Sample]:
    for rows, parts in samples:
        if isinstance(rows, TableRow):
            written.errors[rows.image] = str(parts)
        elif isinstance(parts, dict):
            yield rows, parts
        done()


def _add_sample(tar: tarfile.TarFile, key: str, rows: list[TableRow], parts: dict[str, bytes]) -> None:
    told = [{name: value for name, value in vars(row).items() if value is not None} for row in rows]
    record = json.dumps(told[0] if len(told) == 1 else told, ensure_ascii=True).encode()
    for name, content in {**parts, 'score.json': record}.items():
        member = tarfile.TarInfo(f'{key}.{name}')
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _sniffed(content: bytes) -> str:
    """Return the extension of the format that bytes are in."""
    from PIL import Image
    with suppress(Exception), Image.open(io.BytesIO(content)) as image:
        return EXTENSIONS.get(image.format or '', f'.{str(image.format).lower()}')
    return '.bin'


def draw_bar_sheet(path: str | os.PathLike, selection: Selection, reading: ReadingOptions = READING,
                   image_column: str | None = None) -> Path:
    """Draw the images just below and just above the bar, from the lowest score to the highest, and return the file.

    Raises:
        DataError: none of them can be read.
    """
    from pyiqa_rali.figures.scored import SheetPicture, score_sheet
    from pyiqa_rali.figures.style import save_png
    kept = {row.image for row in selection.just_above}
    rows = sorted([*selection.just_above, *selection.just_below], key=lambda row: (row.score or 0.0, row.image in kept))
    pixels: dict[str, np.ndarray] = {}
    grouped = sorted(rows, key=lambda row: container_of(row.image) or '')
    for row, entry in entries_of_rows(grouped, reading, image_column):
        if not isinstance(entry, str):
            with suppress(UnreadableImage):
                pixels[row.image] = read_entry(entry, reading)
    if not pixels:
        raise DataError('--sheet: no image near the bar can be read; there is no picture to show.')
    items = [SheetPicture(pixels[row.image], float(row.score or 0.0), _told(row, row.image in kept))
             for row in rows if row.image in pixels]
    lost = len(rows) - len(items)
    low, high = selection.lowest, selection.highest
    remark = (f'{selection.kept} images kept, {selection.left} not, {selection.without} without a score'
              + (f'; {lost} near the bar could not be read' if lost else ''))
    figure = score_sheet(items, f'{selection.metric}: kept where {selection.bar}', remark,
                         (low, high if high > low else low + 1), not selection.bar.above)
    return save_png(figure, Path(path))


def _told(row: TableRow, kept: bool) -> str:
    interval = '' if row.low is None or row.high is None else f'\n{row.low:.2f} to {row.high:.2f}'
    return ('kept' if kept else 'not kept') + interval
