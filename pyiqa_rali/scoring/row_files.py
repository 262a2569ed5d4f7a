"""Tables whose rows hold the bytes of pictures: Parquet and Arrow files, and what Hugging Face's `datasets` has saved.

A column of pictures holds their bytes, or pairs of `bytes` and `path` as `datasets` writes them. A field within a column of
structures is named with dots: `meta.image`. Rows are read a few at a time,
and pictures are named by their row, counted from 0: `file.parquet::12`.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, did_you_mean, first_line, some
from pyiqa_rali.data.addresses import extension_of, shown
from pyiqa_rali.data.fetching import FETCHING, FetchOptions, on_disk
from pyiqa_rali.scoring.entries import ImageEntry

EXTENSIONS = ('.parquet', '.arrow')
SAVED, SAVED_SPLITS = 'state.json', 'dataset_dict.json'  # in the folders of Dataset.save_to_disk and DatasetDict.save_to_disk
ROWS = 32  # read at once
BETWEEN = '::'  # between file and row in the name of an image
NEEDS_PYARROW = 'Parquet and Arrow files need pyarrow: pip install pyiqa-rali[parquet]'


def is_row_file(path: str) -> bool:
    """Whether the file's name, or its address, is that of a table with pictures."""
    return extension_of(path) in EXTENSIONS


def saved_dataset(folder: str) -> list[str] | None:
    """Return the files of a folder that `datasets` has saved, split by split, in the order of their rows; None for others.

    Raises:
        DataError: the folder says that it is one, and its record cannot be read.
    """
    record, splits = Path(folder) / SAVED, Path(folder) / SAVED_SPLITS
    try:
        if splits.is_file():
            names = json.loads(splits.read_text(encoding='utf-8'))['splits']
            return [path for name in names for path in saved_dataset(str(Path(folder) / name)) or ()]
        if record.is_file() and (Path(folder) / 'dataset_info.json').is_file():
            files = json.loads(record.read_text(encoding='utf-8'))['_data_files']
            return [str(Path(folder) / each['filename']) for each in files]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{folder}: is a data set that datasets has saved, whose record cannot be read '
                        f'({type(error).__name__}: {first_line(error)}).') from error
    return None


def row_entries(path: str, number: int, column: str | None = None, fetching: FetchOptions = FETCHING) -> Iterator[ImageEntry]:
    """Yield the picture of each row, and at the end an entry with the reason if the file cannot be read to its end.

    Args:
        path: the file or its address, which is fetched whole.
        number: its place in the input.
        column: the one with the pictures; None takes the only one that can hold them.
        fetching: how an address is tried.
    """
    name, count = shown(path), 0
    try:
        with on_disk(path, fetching) as file, _batches(file, extension_of(path), column) as batches:
            for batch in batches:
                for value in batch:
                    yield _entry(f'{name}{BETWEEN}{count}', path, (number, count + 1), value.as_py())
                    count += 1
    except Exception as error:  # what Arrow raises depends on where a file is damaged
        yield ImageEntry(name, path, (number, count + 1), error=_reason(error, count))


def _reason(error: Exception, count: int) -> str:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif isinstance(error, DataError):
        reason = first_line(error)
    else:
        reason = f'damaged file: {first_line(error)}'
    return f'not read to its end, after {count} rows: {reason}' if count else reason


def _entry(name: str, path: str, position: tuple[int, int], value: Any) -> ImageEntry:
    content = value.get('bytes') if isinstance(value, dict) else value
    if isinstance(content, bytes) and content:
        return ImageEntry(name, path, position, size=len(content), content=content)
    own = value.get('path') if isinstance(value, dict) else None
    if own and os.path.isfile(own):
        return ImageEntry(name, own, position)
    named = f', and its path {own!r} is no file here' if own else ''
    return ImageEntry(name, path, position, error=f'the row holds no picture{named}')


@contextlib.contextmanager
def _batches(path: str, extension: str, column: str | None) -> Iterator[Iterator[Any]]:
    """Yield an iterator over batches of rows, of each the column of pictures alone."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(NEEDS_PYARROW) from None
    if extension == '.parquet':
        with parquet.ParquetFile(path) as file:
            chosen = picture_column(file.schema_arrow, column)
            yield (_within(batch.column(0), chosen) for batch in file.iter_batches(ROWS, columns=['.'.join(chosen)]))
        return
    with pa.memory_map(path) as source, _arrow_reader(pa, source) as reader:
        chosen = picture_column(reader.schema, column)
        yield (_within(part.column(0), chosen) for batch in _arrow_batches(reader) for part in _parts(batch.select(chosen[:1])))


def _within(column: Any, path: tuple[str, ...]) -> Any:
    """Return a field within a column of structures; of rows without a structure it is null."""
    from pyarrow import compute
    return compute.struct_field(column, list(path[1:])) if path[1:] else column


def _arrow_reader(pa: Any, source: Any) -> Any:
    """Return a reader of either of Arrow's two layouts: the stream that `datasets` writes, or the file."""
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source)


def _arrow_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, 'num_record_batches'):
        return (reader.get_batch(place) for place in range(reader.num_record_batches))
    return iter(reader)


def _parts(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))


def picture_column(schema: Any, asked: str | None) -> tuple[str, ...]:
    """Return the name of the column with pictures, and those of the fields within it that lead to them.

    Args:
        schema: Arrow's.
        asked: the user's choice, with dots; None takes the only column that can hold pictures: one that `datasets` calls an
            image, otherwise one of pairs of bytes and path, otherwise one of bytes.

    Raises:
        DataError: there is no such column, it holds no bytes, or several could be meant.
    """
    fields = dict(_fields(schema))
    pairs = [path for path, kind in fields.items() if _is_pair(kind)]
    plain = [path for path, kind in fields.items() if _is_binary(kind)]
    told = [path for path in _told_images(schema) if path in (*pairs, *plain)]
    found = told or pairs or plain
    if asked is not None:
        found = [path for path in (*pairs, *plain) if '.'.join(path) == asked]
        if not found:
            what = 'holds no bytes of pictures' if asked in map('.'.join, fields) else 'is not in it'
            raise DataError(f'--image-column: "{asked}" {what}; its columns are {", ".join(map(".".join, fields))}.'
                            f'{did_you_mean(asked, map(".".join, [*pairs, *plain]))}')
    if len(found) > 1:
        raise DataError(f'several columns may hold the pictures: {", ".join(map(".".join, found))}. Give --image-column.')
    if not found:
        lists = ['.'.join(path) for path, kind in fields.items() if _is_list(kind)]
        hint = f'. Of lists, such as {some(lists)}, no pictures are read: a row has one' if lists else ''
        raise DataError(f'no column holds bytes of pictures; its columns are {", ".join(map(".".join, fields))}{hint}')
    return found[0]


def _fields(schema: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and type of every column and, where columns are structures and no pictures, of the fields within."""
    import pyarrow as pa
    for field in schema:
        path = (*above, field.name)
        yield path, field.type
        if pa.types.is_struct(field.type) and not _is_pair(field.type):
            yield from _fields(field.type, path)


def _told_images(schema: Any) -> list[tuple[str, ...]]:
    """Return the columns that a file's own record, as `datasets` writes it, calls images."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return list(_images(json.loads((schema.metadata or {})[b'huggingface'])['info']['features']))
    return []


def _images(features: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, feature in features.items():
        if isinstance(feature, dict) and feature.get('_type') == 'Image':
            yield *above, name
        elif isinstance(feature, dict) and not isinstance(feature.get('_type'), str):
            yield from _images(feature, (*above, name))


def _is_pair(kind: Any) -> bool:
    import pyarrow as pa
    return pa.types.is_struct(kind) and any(field.name == 'bytes' and _is_binary(field.type) for field in kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa
    types = pa.types
    return (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
            or (types.is_dictionary(kind) and _is_binary(kind.value_type)))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
