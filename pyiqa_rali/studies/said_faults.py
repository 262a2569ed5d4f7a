"""What people said is wrong with photographs, beside what a checkpoint reads from them: votes and faults of its diagnosis."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import CheckpointError, DataError, first_line
from pyiqa_rali.core.files import without_nan, write_json
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows, claim_folder
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage, read_rgb
from pyiqa_rali.data.picture_measures import measure_picture
from pyiqa_rali.data.picture_measures.degrees import fault_scores
from pyiqa_rali.data.picture_measures.people import FAULTS_OF_PEOPLE, TYPES_OF_PEOPLE
from pyiqa_rali.data.reasoning_texts import ReasoningText, join_texts
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.data.text_files import refuse_repeated, unique_ends
from pyiqa_rali.measures.agreement import bootstrap_indices, percentile_interval
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.explanation import NO_BANK
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.studies.picture_measures import FEWEST, area_under_roc, chosen_images

PICTURES, RESULTS, SETTINGS = 'pictures.jsonl', 'results.json', 'settings.json'
AT_ONCE = 16
WAYS = ('votes', 'aspects', 'measures')
RESAMPLES, CONFIDENCE = 1000, 0.95


@dataclass
class SaidFaults:
    """How well a checkpoint tells what people said.

    Attributes:
        root: the folder with pictures.jsonl and results.json.
        pictures: a row for each: `image`, `said` (the faults that people named), `shares` of the vote, `faults` of the
            diagnosis and, where they were asked for, `measures`: the scores of faults by direct measures.
        results: by fault as people name it: `pictures` that have it, and for each way of `WAYS` that there is the area under
            the ROC curve with its interval, `[area, low, high]`; `all`: the number of pictures.
    """

    root: Path
    pictures: list[dict[str, Any]]
    results: dict[str, Any]


def evaluate_said_faults(net: RALI, images: Sequence[Path], annotations: Mapping[str, list[ReasoningText]],
                         out: str | os.PathLike, others: Sequence[str] = (), measures: bool = False,
                         sample: int | None = None, seed: int = 0, reading: ReadingOptions = READING) -> SaidFaults:
    """Ask a checkpoint about photographs, and compare with what people said of them.

    Pictures that a stopped run has asked about are not asked about again.

    Args:
        net: a RALI with a text bank.
        images: files.
        annotations: texts of people by image, with the faults that they named as distortions.
        out: the folder to write.
        others: names of further images that annotations may be of, such as those of other splits.
        measures: also measure the pictures directly (`pyiqa_rali.data.picture_measures`).
        sample: only so many of the images, drawn by the seed.
        seed: of the draw and of the resamples of intervals.
        reading: how pictures are read.

    Raises:
        OptionError: the folder holds results of something else, or the sample is larger than the set.
        DataError: an image cannot be read, or annotations are missing.
        CheckpointError: the checkpoint has no text bank, or names no faults.
    """
    if net.bank is None:
        raise CheckpointError(NO_BANK)
    if net.diagnosis is None and not net.bank.classes:
        raise CheckpointError('the checkpoint names no faults: it has no diagnosis, and the texts of its bank no known '
                              'distortions. Add a diagnosis with python -m pyiqa_rali add-diagnosis.')
    every = join_texts([str(file) for file in images], dict(annotations), others)
    chosen = chosen_images(len(images), sample, seed)
    files, said = [images[index] for index in chosen], [every[index][0].distortions for index in chosen]
    if any(pairs is None for pairs in said):
        raise DataError('annotations: some images have no distortions beside their texts; what people saw is not known.')
    names = unique_ends(files)
    refuse_repeated(names)
    root = Path(out)
    claim_folder(root / SETTINGS, {'images': len(images), 'sample': sample, 'seed': seed, 'upright': reading.upright,
                                   'measures': measures, 'weights': weights_digest(net)}, '--out', kind='faults of pictures')
    kept = KeyedRows(root / PICTURES, 'image', durable=False)
    left = [each for each in zip(names, files, said, strict=True) if each[0] not in kept.done]
    with progress_bar(total=len(names), initial=len(names) - len(left), desc='faults', unit='picture') as bar:
        for start in range(0, len(left), AT_ONCE):
            chunk = left[start:start + AT_ONCE]
            kept.add([{'image': name, 'said': sorted({fault for fault, _ in pairs or ()}),
                       **_asked(net, file, reading, measures)} for name, file, pairs in chunk])
            bar.update(len(chunk))
    rows = [kept.done[name] for name in names]
    results = areas_of(rows, seed)
    write_json(root / RESULTS, results)
    return SaidFaults(root, rows, results)


def areas_of(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Return the results of `SaidFaults` for its rows.

    The votes for what people named are summed over the types that mean it (`TYPES_OF_PEOPLE`); of the faults of a diagnosis
    that mean it the clearest counts; of direct measures their mean (`FAULTS_OF_PEOPLE`).
    """
    resamples = bootstrap_indices(len(rows), RESAMPLES, seed, 'faults')
    found: dict[str, Any] = {'all': len(rows)}
    for named, ours in FAULTS_OF_PEOPLE.items():
        there = np.array([named in row['said'] for row in rows])
        if not FEWEST <= there.sum() <= len(there) - FEWEST:
            continue
        ways = {'votes': [sum(row['shares'].get(name, 0.0) for name in (named, *TYPES_OF_PEOPLE[named])) for row in rows]}
        if all(name in row['faults'] for name in ours for row in rows):
            ways['aspects'] = [max(row['faults'][name] for name in ours) for row in rows]
        if all(row.get('measures') for row in rows):
            ways['measures'] = [_mean([row['measures'][name] for name in ours]) for row in rows]
        found[named] = {'pictures': int(there.sum()),
                        **{way: _area(np.array(values, np.float64), there, resamples) for way, values in ways.items()}}
    return found


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float('nan')


def _area(values: np.ndarray, there: np.ndarray, resamples: np.ndarray) -> list[float]:
    """Return the area under the ROC curve and its interval; pictures without a value count as the median."""
    values = np.where(np.isnan(values), np.nanmedian(values), values)
    drawn = [area_under_roc(values[rows], there[rows]) for rows in resamples if 0 < there[rows].sum() < len(rows)]
    return [area_under_roc(values, there), *percentile_interval(np.array(drawn), CONFIDENCE)]


def _asked(net: RALI, file: Path, reading: ReadingOptions, measures: bool) -> dict[str, Any]:
    try:
        pixels = read_rgb(file, reading)
        explained = net.explain(as_tensor([pixels]).to(next(net.parameters()).device), 1, 1)[0]
        found: dict[str, Any] = {'shares': {vote.distortion: round(vote.share, 6) for vote in explained.votes},
                                 'faults': {name: round(value, 6) for name, value in explained.faults.items()}}
        if measures:
            found['measures'] = without_nan(fault_scores(measure_picture(pixels)))
        return found
    except UnreadableImage as error:
        raise DataError(f'{error} Fix or remove it, and its row in the table.') from error
    except (DataError, ValueError, RuntimeError) as error:  # such as a picture that is too small
        raise DataError(f'{file}: {first_line(error)} Leave it out.') from error
