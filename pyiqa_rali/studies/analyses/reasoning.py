"""What the reasoning does for the score: switched on, off, with its words shuffled, or with another image's reasoning."""

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.runs import KeyedRows
from pyiqa_rali.core.seeds import derived_seed
from pyiqa_rali.figures.analyses import draw_conditions
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.analyses.inputs import OptionFile, drawn, greedy_completions, sections_of
from pyiqa_rali.vlm.answers import reasoning_text
from pyiqa_rali.vlm.generation import decode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.ratings import expected_ratings
from pyiqa_rali.vlm.settings import ReasonerSettings
from pyiqa_rali.vlm.tables import read_picture, rows_of

CONDITIONS = ('on', 'off', 'shuffled', 'other')
METRICS = measures_of('plcc', 'srcc')


def analyse_reasoning(opt: OptionFile, section: str, model: ReasonerSettings, out: str | os.PathLike,
                      limit: int | None = None) -> AnalysisResult:
    """Rate every image of a data set under every condition of the reasoning.

    Args:
        opt: option file with the data set, or its values.
        section: name of the data set in it.
        model: the reasoning model; `seed` also draws images, partners and the order of words.
        out: folder for scores.csv, table.csv, results.json and reasoning.png.
        limit: at most so many images.

    Raises:
        OptionError: a value cannot be used, or the folder was begun with something else.
        DataError: the data set cannot be read.
        CheckpointError: the model cannot be loaded.
    """
    _, sections = sections_of(opt, [section])
    folder = AnalysisFolder(out, 'reasoning', {**model.of_a_completion(), 'limit': limit, 'datasets': sections})
    reasoner = model.load()
    folder.check_weights({'model': weights_digest(reasoner.model)})
    images = rows_of(section, sections[section], reasoner.asked, model.seed)
    images = [images[place] for place in drawn(len(images), limit, model.seed)]
    paths, mos = [image.image_path for image in images], np.array([image.mos for image in images])
    completions = greedy_completions(reasoner, paths, folder.rows('completions'), model)
    other = partners(len(paths), model.seed)
    rated = rate(reasoner, paths, completions, other, folder.rows('ratings'), model)
    ratings = {condition: np.array([rated[path][condition] for path in paths]) for condition in CONDITIONS}
    table = agreement(ratings, mos, other)
    scores = [{'image': path, 'mos': mos[place], **{name: values[place] for name, values in ratings.items()},
               'other_image': paths[other[place]]} for place, path in enumerate(paths)]
    draw_conditions(ratings, mos, table, folder.picture('reasoning'), reasoner.asked.rating_range)
    return folder.finish({'scores': scores, 'table': table},
                         {'dataset': section, 'images': len(paths), 'conditions': table}, folder.picture('reasoning'))


def rate(reasoner: ReasoningModel, paths: Sequence[str], completions: Sequence[Sequence[int]], other: np.ndarray,
         rows: KeyedRows, settings: ReasonerSettings) -> dict[Hashable, dict[str, Any]]:
    """Return the ratings of every image, by condition; those already in the file are not computed again.

    Args:
        reasoner: the model.
        paths: n image files.
        completions: what it wrote on each, as token ids.
        other: (n,) the partner of each image.
        rows: where ratings are kept.
        settings: batch size and seed.
    """
    card = reasoner.asked
    left = [place for place, path in enumerate(paths) if path not in rows.done]
    with progress_bar(total=len(paths), initial=len(paths) - len(left), desc='ratings', unit='image') as bar:
        for start in range(0, len(left), settings.batch_size):
            chunk = left[start:start + settings.batch_size]
            pictures = [read_picture(paths[place]) for place in chunk]
            found = {}
            for condition in CONDITIONS:
                begun = [begun_completion(reasoner, condition, completions[place], completions[other[place]],
                                          derived_seed(settings.seed, place)) for place in chunk]
                found[condition] = expected_ratings(reasoner, pictures, card.prompt(), begun, card.bounds,
                                                    card.rating_key, settings.batch_size)
            rows.add([{'key': paths[place], **{name: values[number] for name, values in found.items()}}
                      for number, place in enumerate(chunk)])
            bar.update(len(chunk))
    return rows.done


def partners(count: int, seed: int) -> np.ndarray:
    """Return for each of n images another one (n,), each taken once: a ring in random order."""
    order = np.random.default_rng(seed).permutation(count)
    others = np.empty(count, dtype=int)
    others[order] = np.roll(order, -1)
    return others


def shuffled_words(text: str, seed: int) -> str:
    """Return a text with its words in random order, different from the original where possible.

    Example:
        >>> sorted(shuffled_words('some noise is visible', 0).split())
        ['is', 'noise', 'some', 'visible']
    """
    words, rng = text.split(), np.random.default_rng(seed)
    shuffled = [words[place] for place in rng.permutation(len(words))]
    while shuffled == words and len(set(words)) > 1:
        shuffled = [words[place] for place in rng.permutation(len(words))]
    return ' '.join(shuffled)


def begun_completion(reasoner: ReasoningModel, condition: str, own: Sequence[int], other: Sequence[int],
                     seed: int) -> list[int]:
    """Return the completion after which a rating is requested, as token ids.

    Args:
        reasoner: for its tokenizer.
        condition: one of `CONDITIONS`.
        own: what the model wrote on the image.
        other: what it wrote on the partner.
        seed: of the words' order.
    """
    if condition in ('on', 'other'):
        return list(own if condition == 'on' else other)
    text = '' if condition == 'off' else shuffled_words(reasoning_text(decode(reasoner, own)), derived_seed(seed, 'words'))
    return reasoner.processor.tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False)


def agreement(ratings: Mapping[str, np.ndarray], mos: np.ndarray, other: np.ndarray) -> list[dict[str, float | str]]:
    """Return a row for each condition: correlation with MOS, with the 'on' rating, and mean absolute change.

    With another image's reasoning the ratings are also compared with what belongs to that image: where they follow it, the
    text carries the score and not the picture.

    Args:
        ratings: (n,) of each condition.
        mos: (n,) on the rating scale.
        other: (n,) the partner of each image.
    """
    rows = []
    for condition, values in ratings.items():
        row: dict[str, float | str] = {'condition': condition}
        targets = {'mos': mos, 'on': ratings['on'], 'partner_mos': mos[other], 'partner_on': ratings['on'][other]}
        for name, target in targets.items():
            wanted = condition == 'other' or not name.startswith('partner')
            constant = np.ptp(target) == 0
            found = correlations(values, target, METRICS, condition) if wanted and not constant else {}
            row |= {f'{metric}_{name}': found.get(metric, float('nan')) for metric in METRICS}
        rows.append({**row, 'mean_rating': float(values.mean()),
                     'mean_absolute_change': float(np.abs(values - ratings['on']).mean())})
    return rows
