"""A file of reasoning texts that grows image by image: a run that was stopped continues it, a run of another kind is refused.

Finished images are in `<out>.part`, one line each; what the texts depend on is in `<out>.json`, with a digest of each image's
file where its writer gives one; `out` itself appears when all images are done.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.runs import JsonRows, RowFile, read_claim, refuse_differences
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts, row_of_texts, texts_of_row

logger = logging.getLogger(__name__)

DIGESTS = 'images'  # in the record: the digest of each image's file, by the image's name


def part_of(out: Path) -> Path:
    """Return the file of finished images."""
    return out.with_name(f'{out.name}.part')


def text_rows(part: Path) -> RowFile:
    """Return the file of finished images; its rows are (image, texts)."""
    rows = JsonRows(None, texts_of_row, row_of_texts)
    return RowFile(part, rows, durable=True, option='--out', kind='a file of unfinished texts')


def begin_texts(out: Path, settings: Mapping[str, Any], names: Sequence[str], may_change: Sequence[str] = (),
                enough: Callable[[Mapping[str, Any]], int] = lambda before: 1,
                digests: Mapping[str, str] | None = None) -> dict[str, list[ReasoningText]]:
    """Return the images that earlier runs have finished; a last line cut short is dropped.

    With digests, an image whose file has changed is not finished. Texts of files that kept none are taken as they are, which
    is logged.

    Args:
        out: the file of texts.
        settings: all that the texts depend on, as plain values.
        names: of all images.
        may_change: settings that may differ from those of the run that is continued.
        enough: how many texts an image needs so that it is not tried again, by the settings of the run that is continued.
        digests: of the images' files, by name; None where texts do not tell when these change.

    Raises:
        OptionError: what is there was written by something else, with other settings, or on other images.
    """
    part, described = part_of(out), out.with_name(f'{out.name}.json')
    there = [path for path in (part, out) if path.exists() and path.stat().st_size]
    record = _record_of(described, there[0], out, settings, may_change) if there else {'settings': settings}
    done = dict(text_rows(part).read()) if part.exists() else load_reasoning_texts(out) if out.exists() else {}
    others = sorted(set(done) - set(names))
    if others:
        raise OptionError(f'--out: {there[0]} holds texts on {len(others)} images that are not among these {len(names)}: '
                          f'{some(others)}. Give another --out, or all images together.')
    least = enough(record['settings'])
    done = {name: texts for name, texts in done.items() if len(texts) >= least}
    if digests is not None:
        done = _unchanged(out, done, record.get(DIGESTS, {}), digests)
    text_rows(part).replace(done.items())  # from here on it is the whole truth, also where `out` is there already
    write_json(described, {'settings': settings, **({} if digests is None else {DIGESTS: dict(digests)})})
    return done


def _unchanged(out: Path, done: Mapping[str, list[ReasoningText]], before: Mapping[str, str],
               now: Mapping[str, str]) -> dict[str, list[ReasoningText]]:
    """Return the finished images without those whose files have changed since; log what changed, and what is not known."""
    unknown = [name for name in done if name not in before]
    if unknown:
        logger.warning('%s: it is not recorded of which files the texts on %d of its %d images are (earlier versions did not). '
                       'They are kept as they are; from now on a changed picture is noticed. Remove the file if pictures have '
                       'changed since it was written.', out, len(unknown), len(done))
    changed = {name: None for name in done if before.get(name, now[name]) != now[name]}
    if changed:
        logger.warning('%s: %d of its %d images have changed since their texts were written: %s. Their texts are written anew.',
                       out, len(changed), len(done), some(changed))
    return {name: texts for name, texts in done.items() if name not in changed}


def _record_of(described: Path, there: Path, out: Path, settings: Mapping[str, Any],
               may_change: Sequence[str]) -> dict[str, Any]:
    """Return the record of a file that was begun, or raise OptionError when its settings are unknown or others."""
    record = read_claim(described)
    if record is None:
        raise OptionError(f'--out: {there} is there without {described.name}, which would say how it was written, so its texts '
                          'may be from anything. Give another --out, or remove it.')
    before = record.get('settings', {})
    refuse_differences(f'--out: {out}', {'upright': True, **before}, {'upright': True, **settings},
                       'Give another --out, or remove it.', may_change)
    return {**record, 'settings': before}


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
