"""A file of reasoning texts that grows image by image: a run that was stopped continues it, a run of another kind is refused.

Finished images are in `<out>.part`, one line each; what the texts depend on is in `<out>.json`; `out` itself appears when all
images are done.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.runs import JsonRows, RowFile, read_claim, refuse_differences
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts, row_of_texts, texts_of_row


def part_of(out: Path) -> Path:
    """Return the file of finished images."""
    return out.with_name(f'{out.name}.part')


def text_rows(part: Path) -> RowFile:
    """Return the file of finished images; its rows are (image, texts)."""
    rows = JsonRows(None, texts_of_row, row_of_texts)
    return RowFile(part, rows, durable=True, option='--out', kind='a file of unfinished texts')


def begin_texts(out: Path, settings: Mapping[str, Any], names: Sequence[str], may_change: Sequence[str] = (),
                enough: Callable[[Mapping[str, Any]], int] = lambda before: 1) -> dict[str, list[ReasoningText]]:
    """Return the images that earlier runs have finished; a last line cut short is dropped.

    Args:
        out: the file of texts.
        settings: all that the texts depend on, as plain values.
        names: of all images.
        may_change: settings that may differ from those of the run that is continued.
        enough: how many texts an image needs so that it is not tried again, by the settings of the run that is continued.

    Raises:
        OptionError: what is there was written by something else, with other settings, or on other images.
    """
    part, described = part_of(out), out.with_name(f'{out.name}.json')
    there = [path for path in (part, out) if path.exists() and path.stat().st_size]
    before = _refuse_other_settings(described, there[0], out, settings, may_change) if there else settings
    done = dict(text_rows(part).read()) if part.exists() else load_reasoning_texts(out) if out.exists() else {}
    others = sorted(set(done) - set(names))
    if others:
        raise OptionError(f'--out: {there[0]} holds texts on {len(others)} images that are not among these {len(names)}: '
                          f'{some(others)}. Give another --out, or all images together.')
    least = enough(before)
    done = {name: texts for name, texts in done.items() if len(texts) >= least}
    text_rows(part).replace(done.items())  # from here on it is the whole truth, also where `out` is there already
    write_json(described, {'settings': settings})
    return done


def _refuse_other_settings(described: Path, there: Path, out: Path, settings: Mapping[str, Any],
                           may_change: Sequence[str]) -> dict[str, Any]:
    """Return the settings that a file was begun with, or raise OptionError when they are unknown or others."""
    record = read_claim(described)
    if record is None:
        raise OptionError(f'--out: {there} is there without {described.name}, which would say how it was written, so its texts '
                          'may be from anything. Give another --out, or remove it.')
    before = record.get('settings', {})
    refuse_differences(f'--out: {out}', {'upright': True, **before}, {'upright': True, **settings},
                       'Give another --out, or remove it.', may_change)
    return before


def unique_ends(images: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other path has; the whole path where there is none.

    Example:
        >>> unique_ends([Path('d/noise/1.png'), Path('d/blur/1.png'), Path('d/blur/2.png')])
        ['noise/1.png', 'blur/1.png', '2.png']
    """
    ends = [_ends(image) for image in images]
    count = Counter(end for each in ends for end in each)
    return [next((end for end in each if count[end] == 1), each[-1]) for each in ends]


def _ends(path: Path) -> list[str]:
    parts = path.as_posix().split('/')
    return ['/'.join(parts[start:]) for start in reversed(range(len(parts)))]


def refuse_repeated(names: Sequence[str]) -> None:
    """Raise DataError when two images have one name."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f'{len(repeated)} image names refer to several files: {some(repeated)}. Rename them.')
