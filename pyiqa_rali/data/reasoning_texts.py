"""Reasoning texts in a JSON-lines file, joined with images by name.

One line per image: {"image": "name.png", "texts": [{"text": "...", "seed": 0, "model": "..."}, ...]}
and, where the image's distortions are known, "distortions": [["jpeg", 3.0], ...] beside them ([] for nothing).
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.runs import JsonRows, RowFile
from pyiqa_rali.data.delimited import read_text

PRISTINE = 'pristine'  # in place of distortions where there are none
Distortions = list[tuple[str, float]] | None


@dataclass(frozen=True)
class ReasoningText:
    """One text of an image, with the seed and the model that wrote it.

    Attributes:
        text: the text.
        seed: the seed; None in text banks of version 0.1, which did not keep it.
        model: the model; the same.
        distortions: (type, level) of each distortion of the image: an empty list when it has none, None when nothing is
            known.
    """

    text: str
    seed: int | None
    model: str | None
    distortions: Distortions = None


def load_reasoning_texts(path: str | os.PathLike) -> dict[str, list[ReasoningText]]:
    """Return the texts of each image.

    Raises:
        OptionError: the file does not exist.
        DataError: a line cannot be read, an image appears twice, a text is empty, or an image has a text twice.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f'reasoning_texts: {path} is not a file.')
    lines = read_text(path).split('\n')  # and not at Unicode's other line ends, which may occur within a text
    pairs = [_parse_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise DataError(f'{path}: {len(repeated)} images appear in it more than once: {some(repeated)}.')
    _refuse_bad_texts(pairs, path)
    return dict(pairs)


def _parse_line(line: str, path: Path, number: int) -> tuple[str, list[ReasoningText]]:
    try:
        return texts_of_row(json.loads(line))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path}, line {number}: cannot be read ({type(error).__name__}: {error}). Each line must be '
                        '{"image": ..., "texts": [{"text", "seed", "model"}, ...]}.') from error


def texts_of_row(row: dict[str, Any]) -> tuple[str, list[ReasoningText]]:
    """Return an image and its texts from a line of the file.

    Raises:
        KeyError, TypeError, ValueError: it is not such a line.
    """
    for text in [row['image'], *(item['text'] for item in row['texts'])]:
        if not isinstance(text, str):
            raise TypeError(f'{text!r} is not a text')
    known = pairs_of(row.get('distortions'))
    return row['image'], [ReasoningText(item['text'], int(item['seed']), str(item['model']), known) for item in row['texts']]


def pairs_of(values: Any) -> Distortions:
    """Return (type, level) pairs as they stand in a file; None when nothing is known."""
    return None if values is None else [(str(name), float(level)) for name, level in values]


def _refuse_bad_texts(pairs: list[tuple[str, list[ReasoningText]]], path: Path) -> None:
    problems = {
        'images have no text': [name for name, texts in pairs if not texts],
        'images have an empty text': [name for name, texts in pairs if any(not item.text.strip() for item in texts)],
        'images have the same text twice': [name for name, texts in pairs
                                            if len({item.text for item in texts}) < len(texts)]}
    for problem, names in problems.items():
        if names:
            raise DataError(f'{path}: {len(names)} {problem}: {some(names)}.')


def save_reasoning_texts(path: str | os.PathLike, texts: dict[str, list[ReasoningText]]) -> None:
    """Write the file, atomically."""
    RowFile(path, JsonRows(values=row_of_texts)).replace(texts.items())


def row_of_texts(item: tuple[str, list[ReasoningText]]) -> dict[str, Any]:
    """Return a line of the file for an image and its texts."""
    image, texts = item
    told = [{'text': each.text, 'seed': each.seed, 'model': each.model} for each in texts]
    row: dict[str, Any] = {'image': image, 'texts': told}
    known = texts[0].distortions if texts else None
    return row if known is None else {**row, 'distortions': known}


def paired(distortion: str | None, levels: str | float | None) -> Distortions:
    """Return the (type, level) pairs of a table's columns; None when one of them is missing.

    Args:
        distortion: types joined by '+', or 'pristine'.
        levels: their levels joined by '+', or one number.

    Raises:
        DataError: the numbers of levels and types differ.

    Example:
        >>> paired('jpeg+haze', '3+1.5'), paired('pristine', 0), paired(None, None)
        ([('jpeg', 3.0), ('haze', 1.5)], [], None)
    """
    if distortion is None or levels is None:
        return None
    if distortion == PRISTINE:
        return []
    names, values = distortion.split('+'), str(levels).split('+')
    if len(names) != len(values):
        raise DataError(f'distortion "{distortion}" names {len(names)} types, level "{levels}" {len(values)} levels; both must '
                        'be as many.')
    return [(name, float(value)) for name, value in zip(names, values, strict=True)]


def join_texts(image_names: Iterable[str], texts: dict[str, list[ReasoningText]],
               other_images: Iterable[str] = ()) -> list[list[ReasoningText]]:
    """Return each image's texts, in the order of the images.

    Images are paths, and texts name the end of a path: `a/b.png` means `/data/a/b.png`. A name that fits several images means
        the one that it names relative to the folder that all images share, if there is one: with `/data/a.png` and
            `/data/b/a.png`, `a.png` is the first. Texts of `other_images`, such as those of another split of the same table,
            are ignored. An image that the table has twice has its texts twice.

    Raises:
        DataError: images without a text, texts whose image is not there, or a name that fits several images.
    """
    rows = [Path(name).as_posix() for name in image_names]
    names = list(dict.fromkeys(rows))
    others = {Path(name).as_posix() for name in other_images}
    root = _shared_folder(names)
    by_end: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        parts = name.split('/')
        for start in range(len(parts)):
            by_end.setdefault('/'.join(parts[start:]), []).append(position)
    found: dict[int, list[ReasoningText]] = {}
    problems: dict[str, list[str]] = {
        'texts name an image that fits several files': [], 'texts name the same image as another text does': [],
        'texts name an image that is not in the table': [], 'training images have no text': []}
    ambiguous, repeated, unknown, missing = problems.values()
    for name, items in texts.items():
        written, slashed = Path(name).as_posix(), Path(name.replace('\\', '/')).as_posix()  # the latter as Windows writes it
        positions = by_end.get(written) or by_end.get(slashed, [])
        if len(positions) > 1:
            positions = [each for each in positions if names[each] in _whole_names(root, written, slashed)] or positions
        if not positions and not others & {written, slashed}:
            unknown.append(name)
        if len(positions) > 1:
            ambiguous.append(name)
        if len(positions) == 1 and positions[0] in found:
            repeated.append(name)
        if len(positions) == 1:
            found[positions[0]] = items
    missing += [name for position, name in enumerate(names) if position not in found]
    for problem, which in problems.items():
        if which:
            raise DataError(f'reasoning_texts: {len(which)} {problem}: {some(which)}.')
    position_of = {name: position for position, name in enumerate(names)}
    return [found[position_of[name]] for name in rows]


def _shared_folder(names: list[str]) -> str:
    """Return the folder that all images lie in or below, '' where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # absolute and relative paths, or no images
        return ''


def _whole_names(root: str, *names: str) -> set[str]:
    """Return the paths that names stand for as whole paths, and as paths from the root."""
    return {each for name in names for each in (name, (Path(root) / name).as_posix())}
