"""Texts on photographs from what is measured on them: the file that the alignment trainer reads, without a language model."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.core.files import remembered_sha256, sha256
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.seeds import derived_seed
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb
from pyiqa_rali.data.picture_measures.degrees import QUANTILES, degrees
from pyiqa_rali.data.picture_measures.measures import measure_picture
from pyiqa_rali.data.picture_measures.table import MeasuredFile
from pyiqa_rali.data.picture_measures.wording import grade_of, known_distortions, measured_text, voted_text
from pyiqa_rali.data.reasoning_texts import ReasoningText, save_reasoning_texts
from pyiqa_rali.data.text_files import begin_texts, part_of, refuse_repeated, text_rows, unique_ends

MEASURES_WRITER, VOTES_WRITER, VERDICT = 'pyiqa_rali measures', 'pyiqa_rali bank votes', 'MOS'
VERDICTS = ('none', 'label', 'rank')
ATTEMPTS = 40  # draws of a text that an image has already, before it is left with fewer
AT_ONCE = 16  # images between two additions to the file

Votes = list[tuple[str, float, float | None]]


@dataclass
class MeasuredTextOptions:
    """How texts are written from measures.

    Attributes:
        texts_per_image: how many different ones.
        seed: of wordings; each text's own is derived from it, the image's name and the text's number.
        verdict: 'label': the MOS on its range in ten grades; 'rank': by the tenth of the set in which it lies; 'none'.
    """

    texts_per_image: int = 4
    seed: int = 0
    verdict: str = 'none'

    def __post_init__(self) -> None:
        if self.texts_per_image < 1:
            raise OptionError(f'texts_per_image: {self.texts_per_image} must be at least 1.')
        if self.verdict not in VERDICTS:
            raise OptionError(f'verdict: "{self.verdict}" is not one of {", ".join(VERDICTS)}.')


@dataclass
class MeasuredTextReport:
    """What `write_measured_texts` has written.

    Attributes:
        images: with texts.
        texts: written.
        short: images with fewer texts than wanted, since their faults allow no more wordings.
    """

    images: int = 0
    texts: int = 0
    short: list[str] = field(default_factory=list)


def write_measured_texts(images: Sequence[Path], out: Path, options: MeasuredTextOptions,
                         mos_labels: Sequence[float] | None = None, votes: Callable[[np.ndarray], Votes] | None = None,
                         bank: str = '', names: Sequence[str] | None = None, reading: ReadingOptions = READING,
                         measures: Mapping[str, MeasuredFile] | None = None) -> MeasuredTextReport:
    """Write texts on all images to a JSON-lines file; an interrupted run continues where it stopped.

    Where `out` is there already, the texts on images whose files have changed since, by their bytes, are written anew.

    Args:
        images: files.
        out: the JSON-lines file.
        options: how.
        mos_labels: quality of each image in [0, 1], higher better, for a verdict; texts with one are for training images.
        votes: returns what a checkpoint's text bank says about a picture, (class, share, level) with the largest share first;
            half of the texts are then written from them. None writes all from measures.
        bank: what tells the checkpoint of `votes` from others, such as a digest.
        names: what the images are called in the file; None takes the shortest end of each path that no other path has.
        reading: how pictures are read.
        measures: of images that are measured already, by name; see `load_measures`. Other images are measured now.

    Raises:
        OptionError: a verdict without MOS, or `out` or its part is from other settings, on other images, or not from here.
        DataError: two images have one name, an image cannot be read or is too small, or its measures are of another file.
    """
    names = list(names) if names is not None else unique_ends(images)
    refuse_repeated(names)
    grades = _grades(options, mos_labels, len(images))
    settings = {'writer': MEASURES_WRITER, **asdict(options), 'quantiles': sha256(QUANTILES), 'bank': bank,
                'upright': reading.upright, 'grades': _digest(grades)}
    done = begin_texts(out, settings, names, digests=_digests_of(names, images))
    left = [each for each in zip(names, images, grades, strict=True) if each[0] not in done]
    rows = text_rows(part_of(out))
    with progress_bar(total=len(images), initial=len(done), desc='measure-texts', unit='image') as bar:
        for start in range(0, len(left), AT_ONCE):
            found = {name: _texts_of(name, image, grade, options, votes, reading, _known(measures, name, image))
                     for name, image, grade in left[start:start + AT_ONCE]}
            rows.add(found.items())
            done |= found
            bar.update(len(found))
    done = {name: done[name] for name in names}
    save_reasoning_texts(out, done)
    part_of(out).unlink(missing_ok=True)
    return MeasuredTextReport(len(done), sum(map(len, done.values())),
                              [name for name, texts in done.items() if len(texts) < options.texts_per_image])


def _digests_of(names: Sequence[str], images: Sequence[Path]) -> dict[str, str]:
    """Return the digest of each image's file, by its name.

    Raises:
        DataError: one cannot be read; the message names it.
    """
    found = {}
    for name, image in progress_bar(zip(names, images, strict=True), desc='looking for changed images', total=len(images),
                                    unit='image', leave=False):
        try:
            found[name] = remembered_sha256(image)
        except OSError as error:
            unreadable = UnreadableImage(str(image), error.strerror or first_line(error))
            raise DataError(f'{unreadable} Fix or remove it, and its row in the table.') from error
    return found


def _known(measures: Mapping[str, MeasuredFile] | None, name: str, image: Path) -> Mapping[str, float] | None:
    """Return the measures of an image that was measured before, of which the name alone is no proof."""
    return measures[name].measures_of(image) if measures and name in measures else None


def _grades(options: MeasuredTextOptions, mos_labels: Sequence[float] | None, count: int) -> list[int | None]:
    """Return the grade of each image, 0 to 9; None without a verdict."""
    if options.verdict == 'none':
        return [None] * count
    if mos_labels is None:
        raise OptionError(f'verdict: {options.verdict} needs the MOS of the images; these have none. Give a data set with MOS, '
                          'or verdict: none.')
    if len(mos_labels) != count:
        raise DataError(f'{len(mos_labels)} MOS for {count} images.')
    labels = np.asarray(mos_labels, np.float64)
    if options.verdict == 'rank':
        from scipy.stats import rankdata
        labels = (rankdata(labels) - 0.5) / len(labels)
    return [grade_of(float(label)) for label in labels]


def _digest(grades: list[int | None]) -> str:
    """Return the grades as one text, for the record of what the texts depend on."""
    return hashlib.sha256(repr(grades).encode()).hexdigest()[:16]


def _texts_of(name: str, image: Path, grade: int | None, options: MeasuredTextOptions,
              votes: Callable[[np.ndarray], Votes] | None, reading: ReadingOptions,
              measured: Mapping[str, float] | None) -> list[ReasoningText]:
    """Return the texts of one image: every number is drawn until it is a new text, or its attempts are used up."""
    said = None
    if measured is None or votes is not None:
        pixels, measured = _looked_at(image, reading, measured)
        said = None if votes is None else votes(pixels)
    found = degrees(measured)
    known = known_distortions(found, grade)
    texts: dict[str, ReasoningText] = {}
    for number in range(options.texts_per_image):
        for attempt in range(ATTEMPTS):
            seed = derived_seed(options.seed, name, number, attempt)
            rng = np.random.default_rng(seed)
            voted = voted_text(said, grade, rng) if said is not None and number % 2 else None
            text = measured_text(found, grade, rng) if voted is None else voted
            if text and text not in texts:
                writer = MEASURES_WRITER if voted is None else VOTES_WRITER
                texts[text] = ReasoningText(text, seed, writer if grade is None else f'{writer} + {VERDICT}', known)
                break
    if not texts:
        raise DataError(f'{image}: nothing could be said about it: no fault was measured and no aspect is sound. Give it a '
                        'verdict (a data set with MOS), or leave it out.')
    return list(texts.values())


def _looked_at(image: Path, reading: ReadingOptions,
               measured: Mapping[str, float] | None) -> tuple[np.ndarray, Mapping[str, float]]:
    """Return the pixels and the measures of an image.

    Raises:
        DataError: it cannot be read or measured; the message names it.
    """
    try:
        pixels = read_rgb(image, reading)
        return pixels, measure_picture(pixels) if measured is None else measured
    except UnreadableImage as error:
        raise DataError(f'{error} Fix or remove it, and its row in the table.') from error
    except DataError as error:
        raise DataError(f'{image}: {error} Leave it out.') from error
