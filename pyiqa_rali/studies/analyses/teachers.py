"""Whether models aligned with texts of different teachers give the same images similar scores."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.processes import torch_device
from pyiqa_rali.core.runs import KeyedRows
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.figures.analyses import draw_agreement
from pyiqa_rali.measures.correlations import correlations, measures_of
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.analyses.inputs import OptionFile, drawn, sections_of

METRICS = measures_of('plcc', 'srcc')
MOS = 'MOS'


def analyse_teachers(opt: OptionFile, sections: Sequence[str], checkpoints: Mapping[str, str | os.PathLike],
                     out: str | os.PathLike, limit: int | None = None, seed: int = 0,
                     device: str | None = None) -> AnalysisResult:
    """Score the same images with several models, and compare the scores.

    Args:
        opt: option file with the data sets, or its values.
        sections: names of the data sets in it.
        checkpoints: exports of RALI by name, each aligned with the texts of another teacher.
        out: folder for scores.csv, table.csv, results.json and teachers.png.
        limit: at most so many images of each data set.
        seed: draws them.
        device: torch's name of the device; None takes a GPU if there is one.

    Raises:
        OptionError: fewer than two checkpoints, or the folder was begun with something else.
        DataError: a data set cannot be read.
        CheckpointError: a checkpoint cannot be loaded.
    """
    if len(checkpoints) < 2:
        raise OptionError(f'checkpoints: {", ".join(checkpoints) or "none"}: must be at least two, with different names.')
    paths = {name: str(path) for name, path in checkpoints.items()}
    _, chosen = sections_of(opt, sections)
    folder = AnalysisFolder(out, 'teachers', {'checkpoints': paths, 'limit': limit, 'seed': seed, 'datasets': chosen})
    target = torch_device(device) or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    models = {name: RALI(pretrained_model_path=path).to(target).eval() for name, path in paths.items()}
    folder.check_weights({name: weights_digest(model) for name, model in models.items()})
    images = _scored(models, chosen, folder.rows('scored'), limit, seed, target)
    lines, table, scores = [], [], {}
    for section, rows in images.items():
        scores[section] = {name: np.array([row[name] for row in rows]) for name in paths}
        table += consistency(scores[section], np.array([row['mos_label'] for row in rows]), section)
        lines += [{'dataset': section, **{key: value for key, value in row.items() if key != 'key'}} for row in rows]
    draw_agreement(scores, table, folder.picture('teachers'))
    return folder.finish({'scores': lines, 'table': table}, {'rows': table}, folder.picture('teachers'))


def _scored(models: Mapping[str, RALI], sections: Mapping[str, dict[str, Any]], rows: KeyedRows, limit: int | None, seed: int,
            device: torch.device) -> dict[str, list[dict[str, Any]]]:
    """Return for each section the images with MOS and scores, all higher better; existing rows of the file are reused."""
    found: dict[str, list[dict[str, Any]]] = {}
    for section, options in sections.items():
        table = build_table(section, options, seed)
        found[section] = []
        for place in progress_bar(drawn(len(table), limit, seed), desc=f'scores: {section}', unit='image'):
            key = f'{section}/{place}'
            if key not in rows.done:
                item = table[place]
                picture = item['img'].unsqueeze(0).to(device)
                with torch.inference_mode():
                    scores = {name: _higher_better(model, model(picture).item()) for name, model in models.items()}
                rows.add([{'key': key, 'image': str(item['img_path']), 'mos_label': float(item['mos_label']), **scores}])
            found[section].append(rows.done[key])
    return found


def _higher_better(model: RALI, score: float) -> float:
    return -score if model.metadata['lower_better'] else score


def consistency(scores: Mapping[str, np.ndarray], mos: np.ndarray, dataset: str) -> list[dict[str, Any]]:
    """Return a row for each pair of models, and for each model with MOS.

    Args:
        scores: (n,) of each model, higher better.
        mos: (n,), higher better.
        dataset: its name.

    Returns:
        Rows with 'first', 'second', PLCC and SRCC, NaN where a model scores all images the same; for two models also how
        much their PLCC and SRCC with MOS differ, which the paper gives as within 0.01.
    """
    with_mos = {name: correlations(values, mos, METRICS, dataset) for name, values in scores.items()}
    rows: list[dict[str, Any]] = [{
             'dataset': dataset, 'images': len(mos), 'first': name, 'second': MOS, **with_mos[name], 'plcc_difference': '',
             'srcc_difference': ''} for name in scores]
    for one, two in combinations(scores, 2):
        constant = np.ptp(scores[two]) == 0  # a constant has no correlation, and none is invented
        between = dict.fromkeys(METRICS, float('nan')) if constant else correlations(scores[one], scores[two], METRICS, dataset)
        rows.append({'dataset': dataset, 'images': len(mos), 'first': one, 'second': two, **between,
                     **{f'{metric}_difference': abs(with_mos[one][metric] - with_mos[two][metric]) for metric in METRICS}})
    return rows
