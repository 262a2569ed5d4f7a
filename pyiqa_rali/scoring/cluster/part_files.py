"""The table of a cluster: a folder of Parquet files, one for each task, each of them whole or absent.

A file is done when it is there: no process keeps a record of what others have done, and a task that runs twice writes the same
file twice. The order of the files' paths is the order of the input.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.runs import claim_folder
from pyiqa_rali.scoring.parts import Parquet
from pyiqa_rali.scoring.score_table import ImageScore, ScoreRow

RECORD = '_settings.json'  # readers of Parquet leave out names that begin so
ATTEMPTS = '_attempts'
FACTS = 'pyiqa_rali'  # key of a file's metadata
IN_A_FOLDER = 1000
KIND = 'table of scores'

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartFacts:
    """What a file says about itself.

    Attributes:
        identity: of the task's images; see `ScoreTask.identity`.
        run: which run wrote it.
        images: rows.
        failed: rows without a score.
        damaged: rows that stand for a damaged shard.
        total: sum of the scores.
        others: how many members of a shard are not images, for each extension.
        empty: whether the task's file holds no image.
    """

    identity: str
    run: str
    images: int
    failed: int
    damaged: int
    total: float
    others: Mapping[str, int]
    empty: bool = False


def part_path(out: Path, number: int) -> Path:
    """Return the file of a task.

    Example:
        >>> part_path(Path('scores'), 12345).as_posix()
        'scores/000012/part-000012345.parquet'
    """
    return out / f'{number // IN_A_FOLDER:06d}' / f'part-{number:09d}.parquet'


def part_files(out: Path) -> list[Path]:
    """Return all files of a table, in the order of the input."""
    return sorted(out.glob('*/part-*.parquet'))


def write_part(path: Path, rows: Iterator[ScoreRow], facts: Callable[[], PartFacts], further: Sequence[str] = ()) -> None:
    """Write the file of a task.

    Args:
        path: the file.
        rows: of the task, in the order of the input.
        facts: returns what the file says about itself, once all rows have been taken.
        further: columns after the score.
    """
    with growing_part(path, facts, further) as add:
        for row in rows:
            add(row)


@contextlib.contextmanager
def growing_part(path: Path, facts: Callable[[], PartFacts],
                 further: Sequence[str] = ()) -> Iterator[Callable[[ScoreRow], None]]:
    """Write the file of a task, of the rows that the yielded function is called with; see `write_part`."""
    with Parquet(further).growing(path, lambda: {FACTS: json.dumps(asdict(facts()))}) as add:
        yield add


def read_facts(path: Path) -> PartFacts | None:
    """Return what a file says about itself; None where it is not there, or not one of ours."""
    from pyarrow import ArrowInvalid, parquet
    try:
        metadata = parquet.read_metadata(path).metadata or {}
        return PartFacts(**json.loads(metadata[FACTS.encode()]))
    except (FileNotFoundError, ArrowInvalid, KeyError, ValueError, TypeError):
        return None


def read_part(path: Path, further: Sequence[str] = ()) -> Iterator[ScoreRow]:
    """Yield the rows of a file with these columns after the score."""
    return Parquet(further).read(path)


def read_parts(out: Path, further: Sequence[str] = ()) -> Iterator[ImageScore]:
    """Yield the images of a table in the order of the input."""
    for path in part_files(out):
        for row in read_part(path, further):
            yield row.score


def refuse_begun(out: Path, resume: bool) -> None:
    """Raise OptionError if a table was begun in a folder and is not to be continued."""
    if not resume and (out / RECORD).exists():
        raise OptionError(f'--out: {out} already exists. Give --resume to continue it, or another name.')


def claim_table(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Make the folder of a table, or check that it was begun with the same settings and is to be continued.

    Raises:
        OptionError: the folder is there and `resume` is not set, it holds something else, or was begun with other settings.
    """
    refuse_begun(out, resume)
    claim_folder(out / RECORD, settings, '--out', kind=KIND, remedy='Give another --out.')


def tidy(out: Path, numbers: Iterable[int]) -> int:
    """Remove what killed processes left in a finished table, and the files of tasks that the sources no longer have.

    Args:
        out: the folder.
        numbers: of all tasks.

    Returns:
        How many images those files had.
    """
    wanted, images = {part_path(out, number) for number in numbers}, 0
    for path in part_files(out):
        if path not in wanted:
            found = read_facts(path)
            images += found.images if found else 0
            path.unlink()
    for folder in [each for each in out.iterdir() if each.is_dir()]:
        left = [*folder.glob('.*.part'), *(folder.glob('*') if folder.name == ATTEMPTS else ())]
        for path in left:
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return images
