"""Data sets in layouts that pyiqa has no reader for, as a pyiqa data set: DeQA-Score's JSON, AGIQA-3K's CSV, PIPAL's labels."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pyiqa.data.general_nr_dataset import GeneralNRDataset

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.data.delimited import SEPARATORS, numbers, read_delimited, read_text
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.pyiqa_tables import check_repeats, existing_name, split_column

MOS_COLUMNS = {'deqa': 'gt_score', 'agiqa3k': 'mos_quality', 'pipal': None}
IMAGE_COLUMNS = {'deqa': 'image', 'agiqa3k': 'name'}
PIPAL_LABELS = 'Train_Label'


@dataclass
class ManifestRow:
    """One image of a manifest.

    Attributes:
        image: as the file names it.
        mos: in the file's unit.
        splits: its columns of splits.
        where: file and line, or entry, for messages.
        further: its other columns that hold a text or a number.
    """

    image: str
    mos: float
    splits: dict[str, str] = field(default_factory=dict)
    where: str = ''
    further: dict[str, str] = field(default_factory=dict)


class ManifestNRDataset(GeneralNRDataset):
    """A no-reference data set of images and MOS, with pyiqa's options and three more.

    Args:
        opt: pyiqa's options, and
            format: 'deqa' (JSON list of {"image": ..., "gt_score": ...}), 'agiqa3k' (CSV with the columns name and
                mos_quality) or 'pipal' (lines "A0001_00_00.bmp,1520.06" in a file, or in the .txt files of a folder).
            meta_info_file: the manifest; for 'pipal' a file, the folder of the label files, or the folder above it.
            mos_column: the column of the MOS, such as gt_score_norm or mos_align; default: gt_score, mos_quality.
            dataroot_target: the folder that the images' names start from; PIPAL's may be in folders below it.
            mos_range, lower_better: mandatory.

    Raises:
        OptionError: an option is missing or cannot be used.
        DataError: a row cannot be used; the message names file and row.
    """

    def init_path_mos(self, opt: dict[str, Any]) -> None:
        """Read the manifest into pyiqa's table, image names first and MOS second."""
        name = opt.get('name', 'ManifestNRDataset')
        for key in ('format', 'meta_info_file', 'dataroot_target'):
            if opt.get(key) is None:
                raise OptionError(f'data set {name}: {key}: must be given.')
        rows = read_manifest(opt['meta_info_file'], opt['format'], opt.get('mos_column'), split_column(opt))
        if opt.get('mos_range') is None:
            raise OptionError(f'data set {name}: mos_range: must be given. {range_told(opt, rows)}')
        scale = MosScale(opt['mos_range'], opt.get('lower_better'))  # type: ignore[arg-type]  # it refuses None
        scale.check_labels([row.mos for row in rows], f'{opt["meta_info_file"]} ({opt.get("mos_column") or "MOS"})')
        names, paths = _names_and_paths(rows, Path(opt['dataroot_target']), opt['format'])
        self.meta_info = pd.DataFrame([{'image_name': name, 'mos': row.mos, **row.splits, **row.further}
                                       for name, row in zip(names, rows, strict=True)])
        self.paths_mos = [[path, row.mos] for path, row in zip(paths, rows, strict=True)]


def range_told(values: Mapping[str, Any], rows: list[ManifestRow]) -> str:
    """Return the range of the MOS of a manifest, for a message: the range of its scale is never assumed."""
    unit = ' (Elo ratings)' if values['format'] == 'pipal' else ''
    return (f'The MOS of {values["meta_info_file"]} range from {min(row.mos for row in rows):g} to '
            f'{max(row.mos for row in rows):g}{unit}.')


def read_manifest(path: str | os.PathLike, kind: str, mos_column: str | None = None,
                  split: str | None = None) -> list[ManifestRow]:
    """Return the rows of a manifest.

    Args:
        path: the manifest.
        kind: its format.
        mos_column: the column or key of the MOS; None takes the format's own.
        split: the column or key of the split, if one is looked at.

    Raises:
        OptionError: the format is unknown, or has no columns to choose from.
        DataError: the file or a row of it cannot be used, or an image has two MOS or is in two splits.
    """
    if kind not in MOS_COLUMNS:
        raise OptionError(f'format: "{kind}" is not one of {", ".join(MOS_COLUMNS)}.{did_you_mean(kind, MOS_COLUMNS)}')
    path = Path(path)
    if not path.exists():
        raise DataError(f'{path}: does not exist. Correct meta_info_file.')
    if kind == 'pipal':
        if mos_column is not None:
            raise OptionError(f'mos_column: "{mos_column}": PIPAL has one MOS per image and no columns. Leave it out.')
        rows = _pipal_rows(path)
    else:
        records = json_records(path, '{"image": ..., "gt_score": ...}') if kind == 'deqa' else _csv_records(path)
        rows = _rows(records, IMAGE_COLUMNS[kind], mos_column or str(MOS_COLUMNS[kind]))
    if not rows:
        raise DataError(f'{path}: holds no images.')
    check_repeats([row.image for row in rows], [row.mos for row in rows], [row.where for row in rows],
                  [row.splits.get(split, '').strip() for row in rows] if split else [])
    return rows


def json_records(path: Path, example: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of a JSON list, or of lines that hold one each, with file and entry or line for messages.

    Which of the two it is, the content says: both come as .json and as .jsonl.

    Args:
        path: the file.
        example: how an entry looks, for messages.

    Raises:
        DataError: the file is not such a list.
    """
    text = read_text(path)
    if (path.suffix.lower() == '.jsonl' and not text.lstrip().startswith('[')) or _holds_lines(text):
        lines = [(f'{path}, line {number}', line) for number, line in enumerate(text.split('\n'), start=1) if line.strip()]
        pairs = [(where, _json(line, where)) for where, line in lines]
    else:
        records = _json(text, str(path))
        if not isinstance(records, list):
            raise DataError(f'{path}: must be a list of {example}, and is a {type(records).__name__}. Take a train or test '
                            'manifest; mos.json and split.json are not manifests.')
        pairs = [(f'{path}, entry {number}', record) for number, record in enumerate(records, start=1)]
    for where, record in pairs:
        if not isinstance(record, dict):
            raise DataError(f'{where}: {str(record)[:60]!r} must be {example}.')
    return pairs


def _holds_lines(text: str) -> bool:
    """Whether a text is several lines of a JSON object each, as against one list or one object."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return len(lines) > 1 and all(line.startswith('{') and line.endswith('}') for line in lines[:2])


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f'{where}: cannot be read as JSON ({error}).') from error


def _csv_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    table = read_delimited(path)
    return [(table.where(row), dict(zip(table.columns, cells, strict=True))) for row, cells in enumerate(table.rows)]


def _rows(records: list[tuple[str, dict[str, Any]]], image_column: str, mos_column: str) -> list[ManifestRow]:
    """Return rows from records; MOS that are written as text may have decimal commas."""
    for where, record in records:
        for column in (image_column, mos_column):
            if record.get(column) in (None, ''):
                known = [str(key) for key, value in record.items() if key and isinstance(value, (str, int, float))]
                raise DataError(f'{where}: has no "{column}"; it has {", ".join(known) or "nothing"}.'
                                f'{did_you_mean(column, known)}'
                                + (' Another column of the MOS is chosen with mos_column.' if column == mos_column else ''))
        if not isinstance(record[image_column], str):
            raise DataError(f'{where}: "{image_column}" is {record[image_column]!r}; it must be the path of one image.')
    labels = _labels([(where, record[mos_column]) for where, record in records], mos_column)
    return [ManifestRow(record[image_column], label,
                        {str(key): str(value) for key, value in record.items() if key and 'split' in str(key)}, where,
                        {str(key): str(value) for key, value in record.items() if isinstance(value, str | int | float)
                         and key and 'split' not in str(key) and key not in ('image_name', 'mos')})
            for (where, record), label in zip(records, labels, strict=True)]


def _labels(values: list[tuple[str, Any]], column: str) -> list[float]:
    """Return MOS from JSON's numbers or from text."""
    texts = iter(numbers([value for _, value in values if isinstance(value, str)],
                         [where for where, value in values if isinstance(value, str)], column))
    return [next(texts) if isinstance(value, str) else _finite(where, column, value) for where, value in values]


def _finite(where: str, column: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f'{where}: "{column}" is {str(value)[:60]!r}; it must be a finite number.')
    return float(value)


def _pipal_rows(path: Path) -> list[ManifestRow]:
    if path.is_dir():
        folder = path / PIPAL_LABELS if (path / PIPAL_LABELS).is_dir() else path
        files = sorted(folder.glob('*.txt'))
        if not files:
            raise DataError(f'{folder}: holds no .txt files with labels. Correct meta_info_file.')
    else:
        files = [path]
    rows = []
    for file in files:
        pairs = [(f'{file}, line {number}', *_pipal_cells(f'{file}, line {number}', line))
                 for number, line in enumerate(read_text(file).splitlines(), start=1) if line.strip()]
        labels = numbers([mos for _, _, mos in pairs], [where for where, _, _ in pairs], 'MOS')
        rows += [ManifestRow(image, label, {}, where) for (where, image, _), label in zip(pairs, labels, strict=True)]
    return rows


def _pipal_cells(where: str, line: str) -> tuple[str, str]:
    """Return image and MOS of a line; the comma of "A0001_00_00.bmp;1520,06" belongs to the MOS."""
    separator = next((each for each in reversed(SEPARATORS) if each in line), ',')
    image, found, mos = line.strip().partition(separator)
    if not found or not image.strip():
        raise DataError(f'{where}: {line.strip()[:60]!r} must be an image and its MOS, such as A0001_00_00.bmp,1520.06.')
    return image.strip(), mos


def _names_and_paths(rows: list[ManifestRow], root: Path, kind: str) -> tuple[list[str], list[str]]:
    """Return the images' names and paths: below the root by these names, PIPAL's anywhere in it."""
    if not root.is_dir():
        raise DataError(f'{root}: is not a folder. Correct dataroot_target.')
    names = [existing_name(row.image, str(root), row.where) for row in rows]
    if kind != 'pipal' or all((root / name).exists() for name in names):
        return names, [str(root / name) for name in names]
    found = _by_name(root, set(names))
    return names, [found.get(name, str(root / name)) for name in names]  # a missing one is reported when it is read


def _by_name(root: Path, names: Iterable[str]) -> dict[str, str]:
    wanted = set(names)
    found: dict[str, str] = {}
    for folder, _, files in os.walk(root, followlinks=True):
        for name in wanted.intersection(files):
            path = os.path.join(folder, name)
            if name in found:
                raise DataError(f'{name}: lies at {found[name]} and at {path}. Keep one of them below {root}.')
            found[name] = path
    return found
