"""Tables and texts for images that people scored, from clones of the public repositories that hold them; nothing is copied."""

import contextlib
import csv
import io
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.core.files import atomic_open
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.reasoning_texts import ReasoningText
from pyiqa_rali.data.synthetic.quality_texts import IMPRESSIONS

BIQ2021, MMP2K_IMAGES, MMP2K = 'BIQ2021', 'MMP-2K-Subjective-Study-Platform', 'MMP-2k'
TID2013_IMAGES, TID2013 = 'MTurkImageQuality', 'Image-Quality'
AGIQA3K, AGIQA3K_IMAGES = 'AGIQA-3k-Database', 'images'
REPOSITORIES = {BIQ2021: 'nisarahmedrana/BIQ2021', MMP2K_IMAGES: 'SJHPCJS/MMP-2K-Subjective-Study-Platform',
                MMP2K: 'Future-IQA/MMP-2k', TID2013_IMAGES: 'edoardore/MTurkImageQuality', TID2013: 'parag2489/Image-Quality',
                AGIQA3K: 'lcysyzxdxc/AGIQA-3k-Database'}
COLUMNS = ('name', 'mos', 'official_split', 'small_split', 'split_384')
MMP2K_LEVELS = {'mild': 2.0, 'medium': 3.0, 'strong': 4.0}  # as the raters said it; medium is the middle of five levels
VERDICT_WRITER = 'pyiqa_rali verdicts by MOS'
SMALL = {'train': 6, 'val': 3, 'test': 3}  # one in so many
LARGE = 384  # pixels of the shorter side
SEED = 0


@dataclass(frozen=True)
class ScoredImage:
    """One row.

    Attributes:
        name: file within the set's folder of images.
        mos: as the raters' table has it, higher better.
        split: train, val or test.
        text: what people wrote on it, and what is wrong with it as (type, level).
        further: of a generated picture, the MOS of its alignment with its prompt, and the prompt, by the name of the column.
    """

    name: str
    mos: float
    split: str
    text: ReasoningText | None = None
    further: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What was written for one set.

    Attributes:
        table: meta.csv.
        counts: of images in each part.
        texts: files of texts.
        elsewhere: where `images` leads, if it was there before and is not the clone's folder.
    """

    table: Path
    counts: dict[str, int]
    texts: list[Path]
    elsewhere: Path | None = None


def prepare(repositories: Path, out: Path) -> list[Prepared]:
    """Write a folder for every set that is there: biq2021, mmp2k, tid2013, agiqa3k.

    In it are `images`, a link to those of the clone; `meta.csv` with the columns name, mos, official_split (train, val, test),
    small_split (a seeded sixth of train and a third of val and test keep their part there, the rest is '-', for
    experiments that have to be quick), and split_384 (official_split, but '-' for images of which a side is shorter than 384
    pixels, for training on crops of that size); `texts_verdict.jsonl`, sentences that say of each training image how good it
    is by its MOS; and for MMP-2k `texts.jsonl`, what its raters wrote. The table of AGIQA-3K also has mos_align and prompt,
    and its mos is that of the quality.

    Args:
        repositories: folder of the clones, under the names that they have (see `REPOSITORIES`); they are only read.
        out: folder to write to.

    Raises:
        OptionError: no set is there, or a set lacks one of its two repositories.
        DataError: images of a table are missing, a table cannot be read, is not the one that was expected (MOS outside the
            range of the set, an image twice, no images), or no link can be made.
    """
    sets: dict[str, tuple[tuple[str, ...], str, tuple[float, float], Callable[[Path], list[ScoredImage]]]] = {
        'biq2021': ((BIQ2021,), f'{BIQ2021}/Images', (0, 1), biq2021),
        'mmp2k': ((MMP2K_IMAGES, MMP2K), f'{MMP2K_IMAGES}/backend/server/image_base', (0, 100), mmp2k),
        'tid2013': ((TID2013_IMAGES, TID2013), f'{TID2013_IMAGES}/static/images', (0, 9), tid2013_part),
        'agiqa3k': ((AGIQA3K,), f'{AGIQA3K}/{AGIQA3K_IMAGES}', (0, 5), agiqa3k)}
    written = []
    for name, (needed, images, mos_range, read) in sets.items():
        there = [each for each in needed if (repositories / each).is_dir()]
        if not there:
            continue
        if len(there) < len(needed):
            missing = next(each for each in needed if each not in there)
            raise OptionError(f'--repositories: {repositories / missing} is not a folder, and {name} needs it beside '
                              f'{there[0]}. Clone github.com/{REPOSITORIES[missing]} there.')
        rows = read(repositories)
        _check_rows(rows, repositories / there[-1], mos_range)  # the repository with the scores is the last one
        written.append(_write(out / name, repositories / images, rows, mos_range))
    if not written:
        raise OptionError(f'--repositories: {repositories} has none of {", ".join(REPOSITORIES)}. Clone those of a set there: '
                          f'{", ".join(f"github.com/{each}" for each in REPOSITORIES.values())}.')
    return written


def biq2021(repositories: Path) -> list[ScoredImage]:
    """Return BIQ2021: its official test part, and a tenth of its training part as val."""
    folder = repositories / BIQ2021
    by_lower = _files(folder / 'Images')
    rows: dict[str, list[tuple[str, float]]] = {}
    for part in ('train', 'test'):
        path = folder / f'{part.title()} (Images and MOS).csv'
        with _read_as_expected(path, 'BIQ2021'):
            rows[part] = [(cells[0], float(cells[1])) for cells in _cells(path)]
        if not rows[part]:
            raise DataError(f'{path}: has no images. Is the clone whole?')
    chosen = split_by_name([name for name, _ in rows['train']], {'train': 0.9, 'val': 0.1})
    return [ScoredImage(_found(name, by_lower, folder), mos, chosen[name] if part == 'train' else part)
            for part, members in rows.items() for name, mos in members]


def mmp2k(repositories: Path) -> list[ScoredImage]:
    """Return MMP-2k, split at random by 8 to 1 to 1 (it brings no split), with its raters' sentences and distortions."""
    path = repositories / MMP2K / 'MMP-2k.csv'
    by_lower = _files(repositories / MMP2K_IMAGES / 'backend' / 'server' / 'image_base')
    with _read_as_expected(path, 'MMP-2k'):
        rows = _records(path)
        split = split_by_name([row['file_name'] for row in rows], {'train': 0.8, 'val': 0.1, 'test': 0.1})
        return [ScoredImage(_found(Path(row['file_name']).name, by_lower, path), float(row['MOS']), split[row['file_name']],
                            _said(row)) for row in rows]


def _said(row: Mapping[str, str]) -> ReasoningText | None:
    """Return what people wrote on an image, and what is wrong with it; None where they wrote nothing."""
    if not row['quality report'].strip():
        return None
    said = [each for each in json.loads(row['distortion annotation'] or '[]') if each['factor']]
    return ReasoningText(row['quality report'], 0, 'people (MMP-2k)',
                         [(each['factor'], MMP2K_LEVELS[each['magnitude']]) for each in said])


def tid2013_part(repositories: Path) -> list[ScoredImage]:
    """Return the part of TID2013 whose images are there, all of it test."""
    path = repositories / TID2013 / 'mos_with_names.txt'
    by_lower = _files(repositories / TID2013_IMAGES / 'static' / 'images')
    with _read_as_expected(path, 'TID2013'):
        pairs = [line.split() for line in _text(path).splitlines() if line.strip()]
        return [ScoredImage(by_lower[name.lower()], float(mos), 'test') for mos, name in pairs if name.lower() in by_lower]


def agiqa3k(repositories: Path) -> list[ScoredImage]:
    """Return AGIQA-3K, split at random by 8 to 1 to 1 (it brings no split): all pictures of one prompt are in one part."""
    folder = repositories / AGIQA3K
    if not (folder / AGIQA3K_IMAGES).is_dir():
        raise DataError(f'{folder / AGIQA3K_IMAGES}: is not a folder. The repository of AGIQA-3K has the table alone; its '
                        'README says where the archive of the images is: unpack it there.')
    path, by_lower = folder / 'data.csv', _files(folder / AGIQA3K_IMAGES)
    with _read_as_expected(path, 'AGIQA-3K'):
        rows = _records(path)
        # a picture of a prompt that was trained on would be easier than one of a new prompt
        split = split_by_name(list({row['prompt'] for row in rows}), {'train': 0.8, 'val': 0.1, 'test': 0.1})
        return [ScoredImage(_found(row['name'], by_lower, path), float(row['mos_quality']), split[row['prompt']],
                            further={'mos_align': float(row['mos_align']), 'prompt': row['prompt']}) for row in rows]


def split_by_name(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Return the part of each name: a seeded shuffle of the sorted names, cut by the shares, which add up to 1.

    Example:
        >>> found = split_by_name([f'{number}.png' for number in range(10)], {'train': 0.8, 'test': 0.2})
        >>> sorted(found.values())
        ['test', 'test', 'train', 'train', 'train', 'train', 'train', 'train', 'train', 'train']
    """
    names = sorted(names)
    random.Random(SEED).shuffle(names)
    parts, start, share = {}, 0, 0.0
    for part, own in shares.items():
        share += own
        end = round(share * len(names))
        parts.update(dict.fromkeys(names[start:end], part))
        start = end
    return parts


def verdicts_of(mos_label: float) -> list[str]:
    """Return sentences on how good an image is as a whole.

    Args:
        mos_label: in [0, 1], higher better.
    """
    return list(IMPRESSIONS[min(int(mos_label * len(IMPRESSIONS)), len(IMPRESSIONS) - 1)])


@contextlib.contextmanager
def _read_as_expected(path: Path, name: str) -> Iterator[None]:
    """Turn what reading a table of another layout raises into an error that names it."""
    try:
        yield
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f'{path}: is not the table of {name} that was expected ({type(error).__name__}: {error}). Is it '
                        'another version of the repository?') from error


def _check_rows(rows: Sequence[ScoredImage], where: Path, mos_range: tuple[float, float]) -> None:
    """Reject what another version of a repository may hold, and what training would find out much later."""
    if not rows:
        raise DataError(f'{where}: none of the images that it has a MOS for is there. Is the clone whole?')
    low, high = mos_range
    outside = [f'{row.name} ({row.mos:g})' for row in rows if not low <= row.mos <= high]  # NaN is outside too
    if outside:
        raise DataError(f'{where}: {len(outside)} of {len(rows)} MOS are outside [{low:g}, {high:g}], the range of this set: '
                        f'{some(outside)}. Is it another version of the repository?')
    twice = [name for name, count in Counter(row.name for row in rows).items() if count > 1]
    if twice:
        raise DataError(f'{where}: {len(twice)} images appear twice: {some(twice)}. Is it another version of the repository?')


def _write(folder: Path, images: Path, rows: list[ScoredImage], mos_range: tuple[float, float]) -> Prepared:
    small = {row.name for part, one_in in SMALL.items()
             for row in _drawn([row for row in rows if row.split == part], one_in)}
    table = folder / 'meta.csv'
    folder.mkdir(parents=True, exist_ok=True)
    _link(folder / 'images', images, [row.name for row in rows])
    write_csv(table, (*COLUMNS, *rows[0].further),
              [(row.name, row.mos, row.split, row.split if row.name in small else '-',
                row.split if _is_large(folder / 'images' / row.name) else '-', *row.further.values()) for row in rows])
    low, high = mos_range
    verdicts = [(row.name, [ReasoningText(text, number, VERDICT_WRITER)
                            for number, text in enumerate(verdicts_of((row.mos - low) / (high - low)))])
                for row in rows if row.split == 'train']
    people = [(row.name, [row.text]) for row in rows if row.text is not None]
    written = []
    for name, members in (('texts_verdict.jsonl', verdicts), ('texts.jsonl', people)):
        if members:
            written.append(folder / name)
            _write_texts(written[-1], members)
    link = folder / 'images'
    return Prepared(table, {part: sum(row.split == part for row in rows) for part in ('train', 'val', 'test')}, written,
                    None if link.samefile(images) else link.resolve())


def _is_large(path: Path) -> bool:
    """Return whether both sides have `LARGE` pixels by the file's header; what cannot be read is told when it is used."""
    try:
        with Image.open(path) as picture:
            return min(picture.size) >= LARGE
    except (OSError, ValueError, Image.DecompressionBombError):
        return True


def _link(link: Path, images: Path, names: Sequence[str]) -> None:
    """Make a link to the images; a folder in its place is left, and so is a link to another one that holds them all.

    Raises:
        DataError: what is there lacks images of the table, or no link can be made.
    """
    if link.exists() and not link.samefile(images):
        there = {path.name for path in link.iterdir()}
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(f'{link}: is there already, and lacks {len(missing)} of the {len(names)} images of the table: '
                            f'{some(missing)}. Remove it, to have it linked to {images}, or copy them there.')
    if link.exists():
        return
    try:
        link.unlink(missing_ok=True)  # one that leads nowhere
        link.symlink_to(os.path.relpath(images, link.parent), target_is_directory=True)
    except OSError as error:
        raise DataError(f'{link}: cannot be made a link to {images} ({error.strerror}). Copy that folder there.') from error


def _drawn(rows: Sequence[ScoredImage], one_in: int) -> list[ScoredImage]:
    ordered = sorted(rows, key=lambda row: row.name)
    return random.Random(SEED + 1).sample(ordered, len(ordered) // one_in)


def _write_texts(path: Path, members: Sequence[tuple[str, Sequence[ReasoningText]]]) -> None:
    with atomic_open(path) as stream:
        for name, texts in members:
            known = texts[0].distortions
            line = {'image': name, **({} if known is None else {'distortions': [list(pair) for pair in known]}),
                    'texts': [{'text': each.text, 'seed': each.seed, 'model': each.model} for each in texts]}
            stream.write(json.dumps(line, ensure_ascii=False) + '\n')


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f'{path}: does not exist. Is the clone whole?')
    return path.read_bytes().decode('utf-8-sig')  # line ends within a text stay as they are


def _cells(path: Path) -> list[list[str]]:
    """Return the rows of a table after its header."""
    return [row for row in csv.reader(io.StringIO(_text(path), newline='')) if any(row)][1:]


def _records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table by its header."""
    return list(csv.DictReader(io.StringIO(_text(path), newline='')))


def _files(folder: Path) -> dict[str, str]:
    """Return the files of a folder by their names in lower case, as tables and files differ in case."""
    if not folder.is_dir():
        raise DataError(f'{folder}: does not exist. Is the clone whole?')
    return {path.name.lower(): path.name for path in sorted(folder.iterdir())}


def _found(name: str, by_lower: Mapping[str, str], where: Path) -> str:
    if name.lower() not in by_lower:
        raise DataError(f'{where}: has a MOS for {some([name])}, and no such image. Is the clone whole?')
    return by_lower[name.lower()]
