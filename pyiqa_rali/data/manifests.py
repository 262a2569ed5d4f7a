"""Data sets in layouts that pyiqa has no reader for, as a pyiqa data set: DeQA-Score's JSON, AGIQA-3K's CSV, PIPAL's labels."""

import csv
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pyiqa.data.general_nr_dataset import GeneralNRDataset

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.data.mos import MosScale

MOS_COLUMNS = {'deqa': 'gt_score', 'agiqa3k': 'mos_quality', 'pipal': None}
IMAGE_COLUMNS = {'deqa': 'image', 'agiqa3k': 'name'}
PIPAL_LABELS = 'Train_Label'

Row = tuple[str, float, dict[str, str]]  # image as the file names it, MOS, split columns


class ManifestNRDataset(GeneralNRDataset):
    """A no-reference data set of images and MOS, with pyiqa's options and three of its own.

    Args:
        opt: pyiqa's options, and
            format: 'deqa' (JSON list of {"image": ..., "gt_score": ...}), 'agiqa3k' (CSV with the columns name and
                mos_quality) or 'pipal' (lines "A0001_00_00.bmp,1520.06" in a file, or in the .txt files of a folder).
            meta_info_file: the manifest; for 'pipal' a file, the folder of the label files, or the folder above it.
            mos_column: where the MOS stands, such as gt_score_norm or mos_align; default: gt_score, mos_quality.
            dataroot_target: the folder that the images' names start from; PIPAL's may lie in folders below it.
            mos_range, lower_better: mandatory.

    Raises:
        OptionError: an option is missing or cannot be used.
        DataError: a row cannot be used; the message names file and row.
    """

    def init_path_mos(self, opt: dict[str, Any]) -> None:
        """Read the manifest into pyiqa's table, image names first and MOS second."""
        name = opt.get('name', 'ManifestNRDataset')
        for key in ('format', 'meta_info_file', 'dataroot_target', 'mos_range'):
            if opt.get(key) is None:
                raise OptionError(f'data set {name}: {key}: must be given.')
        scale = MosScale(opt['mos_range'], opt.get('lower_better'))
        rows = read_manifest(opt['meta_info_file'], opt['format'], opt.get('mos_column'))
        scale.check_labels([mos for _, mos, _ in rows], f'{opt["meta_info_file"]} ({opt.get("mos_column") or "MOS"})')
        paths = _paths([image for image, _, _ in rows], Path(opt['dataroot_target']), opt['format'])
        self.meta_info = pd.DataFrame([{'image_name': image, 'mos': mos, **splits} for image, mos, splits in rows])
        self.paths_mos = [[path, mos] for path, (_, mos, _) in zip(paths, rows, strict=True)]


def read_manifest(path: str | os.PathLike, kind: str, mos_column: str | None = None) -> list[Row]:
    """Return image name, MOS and split columns of every row.

    Args:
        path: the manifest.
        kind: its format.
        mos_column: the column or key of the MOS; None takes the format's own.

    Raises:
        OptionError: the format is unknown, or has no columns to choose from.
        DataError: the file or a row of it cannot be used.
    """
    if kind not in MOS_COLUMNS:
        raise OptionError(f'format: "{kind}" is not one of {", ".join(MOS_COLUMNS)}.{did_you_mean(kind, MOS_COLUMNS)}')
    path = Path(path)
    if not path.exists():
        raise DataError(f'{path}: is not there. Correct meta_info_file.')
    if kind == 'pipal':
        if mos_column is not None:
            raise OptionError(f'mos_column: "{mos_column}": PIPAL has one MOS an image and no columns. Leave it out.')
        rows = _pipal_rows(path)
    else:
        records = _json_records(path) if kind == 'deqa' else _csv_records(path)
        rows = [_row(where, record, IMAGE_COLUMNS[kind], mos_column or MOS_COLUMNS[kind]) for where, record in records]
    if not rows:
        raise DataError(f'{path}: holds no images.')
    _refuse_repeated(path, [image for image, _, _ in rows])
    return rows


def _json_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        records = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read as JSON ({error}).') from error
    if not isinstance(records, list):
        raise DataError(f'{path}: must be a list of {{"image": ..., "gt_score": ...}}, and is a {type(records).__name__}. '
                        'Take a train or test manifest; mos.json and split.json are none.')
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f'{path}, entry {number}: {str(record)[:60]!r} must be {{"image": ..., "gt_score": ...}}.')
    return [(f'{path}, entry {number}', record) for number, record in enumerate(records, start=1)]


def _csv_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        with open(path, encoding='utf-8-sig', newline='') as stream:
            reader = csv.DictReader(stream)
            return [(f'{path}, line {reader.line_num}', row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path}: cannot be read as CSV ({error}).') from error


def _row(where: str, record: dict[str, Any], image_column: str, mos_column: str) -> Row:
    for column in (image_column, mos_column):
        if record.get(column) in (None, ''):
            known = [str(key) for key, value in record.items() if key and isinstance(value, (str, int, float))]
            raise DataError(f'{where}: has no "{column}"; it has {", ".join(known) or "nothing"}.{did_you_mean(column, known)}'
                            + (' Another column of the MOS is chosen with mos_column.' if column == mos_column else ''))
    image = record[image_column]
    if not isinstance(image, str):
        raise DataError(f'{where}: "{image_column}" is {image!r}; it must be the path of one image.')
    splits = {str(key): str(value) for key, value in record.items() if key and 'split' in str(key)}
    return image, _mos(where, mos_column, record[mos_column]), splits


def _pipal_rows(path: Path) -> list[Row]:
    if path.is_dir():
        folder = path / PIPAL_LABELS if (path / PIPAL_LABELS).is_dir() else path
        files = sorted(folder.glob('*.txt'))
        if not files:
            raise DataError(f'{folder}: holds no .txt files with labels. Correct meta_info_file.')
    else:
        files = [path]
    rows = []
    for file in files:
        try:
            lines = file.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f'{file}: cannot be read ({error}).') from error
        rows += [_pipal_row(f'{file}, line {number}', line) for number, line in enumerate(lines, start=1) if line.strip()]
    return rows


def _pipal_row(where: str, line: str) -> Row:
    image, separator, mos = line.strip().rpartition(',')
    if not separator or not image:
        raise DataError(f'{where}: {line.strip()[:60]!r} must be an image and its MOS, such as A0001_00_00.bmp,1520.06.')
    return image.strip(), _mos(where, 'MOS', mos), {}


def _mos(where: str, column: str, value: Any) -> float:
    try:
        mos = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        mos = math.nan
    if not math.isfinite(mos):
        raise DataError(f'{where}: "{column}" is {str(value)[:60]!r}; it must be a finite number.')
    return mos


def _refuse_repeated(path: Path, images: list[str]) -> None:
    first: dict[str, int] = {}
    for number, image in enumerate(images, start=1):
        if image in first:
            raise DataError(f'{path}: rows {first[image]} and {number} are both of {image}. Keep one of them.')
        first[image] = number


def _paths(images: list[str], root: Path, kind: str) -> list[str]:
    """Return where the images are: below the root by their names; PIPAL's wherever in it."""
    if not root.is_dir():
        raise DataError(f'{root}: is no folder. Correct dataroot_target.')
    if kind != 'pipal' or all((root / image).exists() for image in images):
        return [str(root / image) for image in images]
    found = _by_name(root, set(images))
    return [found.get(image, str(root / image)) for image in images]  # one that is not there is told when it is read


def _by_name(root: Path, names: Iterable[str]) -> dict[str, str]:
    wanted, found = set(names), {}
    for folder, _, files in os.walk(root, followlinks=True):
        for name in wanted.intersection(files):
            path = os.path.join(folder, name)
            if name in found:
                raise DataError(f'{name}: lies at {found[name]} and at {path}. Keep one of them below {root}.')
            found[name] = path
    return found
