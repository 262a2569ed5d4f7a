"""What the measures of pictures are worth: their percentiles over a data set, and how well they tell what people said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import sha256, without_nan, write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb
from pyiqa_rali.data.picture_measures import MEASURES, measure_picture
from pyiqa_rali.data.picture_measures.degrees import FAULTS, Quantiles, fault_scores, quantiles_of, stored_quantiles
from pyiqa_rali.data.picture_measures.people import FAULTS_OF_PEOPLE, TYPES_OF_PEOPLE
from pyiqa_rali.data.picture_measures.table import FILE, IMAGE, measures_of_row
from pyiqa_rali.data.reasoning_texts import ReasoningText, join_texts
from pyiqa_rali.data.text_files import refuse_repeated, unique_ends
from pyiqa_rali.measures.correlations import correlations, measures_of

PICTURES, RESULTS, QUANTILES, SETTINGS = 'pictures.jsonl', 'results.json', 'quantiles.json', 'settings.json'
AT_ONCE = 16
SRCC = measures_of('srcc')
FEWEST = 10  # pictures with a fault, without it, or with a measure, before anything is said about it


@dataclass
class MeasuredPictures:
    """The measures of a set of pictures.

    Attributes:
        root: the folder with pictures.jsonl, quantiles.json and results.json.
        pictures: a row for each: `image`, `mos` where it is known, and every measure.
        results: `srcc` of each measure and fault with the MOS, `auc` of them against people's annotations; what there was
            nothing to compare with is left out.
    """

    root: Path
    pictures: list[dict[str, Any]]
    results: dict[str, Any]


def measure_pictures(images: Sequence[Path], out: str | Path, mos: Sequence[float] | None = None,
                     annotations: Mapping[str, list[ReasoningText]] | None = None, others: Sequence[str] = (),
                     sample: int | None = None, seed: int = 0, reading: ReadingOptions = READING,
                     command: str = '') -> MeasuredPictures:
    """Measure pictures, and compare the measures with what people said of them.

    Pictures that a stopped run has measured are not measured again.

    Args:
        images: files.
        out: the folder to write.
        mos: quality of each image, higher better.
        annotations: texts of people by image, with the faults that they named as distortions.
        others: names of further images that annotations may be of, such as those of other splits.
        sample: only so many of the images, drawn by the seed.
        seed: of the draw.
        reading: how pictures are read.
        command: what the percentiles' file says it was made with.

    Raises:
        OptionError: the folder holds results of something else, or the sample is larger than the set.
        DataError: an image cannot be read or measured, or annotations are missing.
    """
    chosen = chosen_images(len(images), sample, seed)
    files = [images[index] for index in chosen]
    names = unique_ends(files)
    refuse_repeated(names)
    root = Path(out)
    claim_folder(root / SETTINGS, {'images': len(images), 'sample': sample, 'seed': seed, 'upright': reading.upright,
                                   'measures': list(MEASURES)}, '--out', kind='measures of pictures')
    kept = KeyedRows(root / PICTURES, IMAGE, durable=False)
    left = [each for each in zip(names, files, strict=True) if each[0] not in kept.done]
    with progress_bar(total=len(names), initial=len(names) - len(left), desc='measure', unit='picture') as bar:
        for start in range(0, len(left), AT_ONCE):
            chunk = left[start:start + AT_ONCE]
            kept.add([{IMAGE: name, FILE: sha256(file), **without_nan(_measured(file, reading))} for name, file in chunk])
            bar.update(len(chunk))
    rows = [{**kept.done[name]} for name in names]
    measured = [measures_of_row(row, root / PICTURES) for row in rows]
    columns = {name: np.array([each[name] for each in measured]) for name in MEASURES}
    quantiles = quantiles_of(columns)
    write_json(root / QUANTILES, {'command': command, 'pictures': len(rows), **asdict(quantiles)})
    results: dict[str, Any] = {'pictures': len(rows)}
    if mos is not None:
        scores = np.array([mos[index] for index in chosen])
        rows = [{**row, 'mos': float(score)} for row, score in zip(rows, scores, strict=True)]
        results['srcc'] = srcc_with_mos({**columns, **fault_columns(columns, quantiles)}, scores)
    if annotations is not None:
        every = join_texts([str(file) for file in images], dict(annotations), others)
        said = [every[index][0].distortions for index in chosen]
        results['auc'] = auc_against_people(columns, said)
    write_json(root / RESULTS, results)
    return MeasuredPictures(root, rows, results)


def srcc_with_mos(columns: Mapping[str, np.ndarray], mos: np.ndarray) -> dict[str, float]:
    """Return the rank correlation of each measure with the MOS, over the pictures that have it, unless they are too few."""
    found = {}
    for name, values in columns.items():
        there = ~np.isnan(values)
        if there.sum() >= FEWEST and np.ptp(values[there]) > 0:
            found[name] = correlations(values[there], mos[there], SRCC, name)['srcc']
    return found


def auc_against_people(columns: Mapping[str, np.ndarray], said: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return for each fault that people named the area under the ROC curve of each measure, and of our `fault_scores`.

    A measure of which low values are the fault has an area below .5; pictures without it count as the median.

    Args:
        columns: the measures by name.
        said: (fault, level) pairs of each picture; None where nothing is known.

    Raises:
        DataError: nothing is known of a picture.
    """
    _refuse_unknown(said)
    values = {name: np.where(np.isnan(each), np.nanmedian(each), each) for name, each in columns.items()}
    values.update(fault_columns(values, stored_quantiles()))
    for named, ours in FAULTS_OF_PEOPLE.items():
        values[f'said: {named}'] = np.mean([values[f'fault: {name}'] for name in ours], axis=0)
    found: dict[str, dict[str, Any]] = {}
    for named in sorted({name for pairs in said for name, _ in pairs}):
        there = np.array([named in {name for name, _ in pairs} for pairs in said])
        if FEWEST <= there.sum() <= len(there) - FEWEST:
            found[named] = {'pictures': int(there.sum()), 'ours': list(FAULTS_OF_PEOPLE.get(named, ())),
                            **{name: area_under_roc(each, there) for name, each in values.items()}}
    return found


def fault_columns(columns: Mapping[str, np.ndarray], quantiles: Quantiles) -> dict[str, np.ndarray]:
    """Return the score of each fault over pictures, as 'fault: NAME'; see `fault_scores`."""
    count = len(next(iter(columns.values())))
    scores = [fault_scores({name: float(values[index]) for name, values in columns.items()}, quantiles)
              for index in range(count)]
    return {f'fault: {name}': np.array([each[name] for each in scores]) for name in FAULTS}


def auc_of_votes(shares: Sequence[Mapping[str, float]], said: Sequence[Any]) -> dict[str, float]:
    """Return for each fault that people named the area under the ROC curve of the votes for it.

    Args:
        shares: of the vote by class, of each picture; a class is a type of synthetic distortion, or a fault as people say.
        said: (fault, level) pairs of each picture.

    Raises:
        DataError: nothing is known of a picture.
    """
    _refuse_unknown(said)
    found = {}
    for named, types in TYPES_OF_PEOPLE.items():
        there = np.array([named in {name for name, _ in pairs} for pairs in said])
        if FEWEST <= there.sum() <= len(there) - FEWEST:
            votes = np.array([sum(each.get(name, 0.0) for name in (named, *types)) for each in shares])
            found[named] = area_under_roc(votes, there)
    return found


def _refuse_unknown(said: Sequence[Any]) -> None:
    if any(pairs is None for pairs in said):
        raise DataError('annotations: some images have no distortions beside their texts; what people saw is not known.')


def area_under_roc(values: np.ndarray, there: np.ndarray) -> float:
    """Return how often a picture with the fault has the higher value than one without it; ties count half.

    Example:
        >>> area_under_roc(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True]))
        1.0
    """
    from scipy.stats import rankdata
    count = int(there.sum())
    return float((rankdata(values)[there].sum() - count * (count + 1) / 2) / (count * (len(values) - count)))


def chosen_images(count: int, sample: int | None, seed: int) -> list[int]:
    """Return the positions of so many images of `count`, drawn by the seed, in order; all where no number is given.

    Raises:
        OptionError: more are wanted than there are.
    """
    if sample is None:
        return list(range(count))
    if sample > count:
        raise OptionError(f'sample: {sample} is more than the {count} images of the set.')
    return sorted(np.random.default_rng(seed).choice(count, sample, replace=False).tolist())


def _measured(file: Path, reading: ReadingOptions) -> dict[str, float]:
    try:
        return {name: round(value, 6) for name, value in measure_picture(read_rgb(file, reading)).items()}
    except UnreadableImage as error:
        raise DataError(f'{error} Fix or remove it, and its row in the table.') from error
    except DataError as error:
        raise DataError(f'{file}: {error} Leave it out.') from error
