"""What RALI costs compared with the reasoning model: parameters, time and memory, each metric in its own process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import model_sha256
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.figures.analyses import draw_costs
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.studies.analyses.folder import AnalysisFolder, AnalysisResult
from pyiqa_rali.studies.benchmark.processes import measure_metric
from pyiqa_rali.vlm.loading import locate_vlm

COSTS = {'parameters': 'parameters', 'median_ms': 'ms for one image', 'peak_mb': 'peak memory of the process, MB'}
PAPER = {'parameters': 0.04, 'median_ms': 0.034, 'peak_mb': 0.147}  # RALI over Q-Insight 7B, batch 16, one A100


def analyse_efficiency(metrics: Sequence[str], model: str | os.PathLike, image: str | os.PathLike, out: str | os.PathLike,
                       repeats: int = 5, threads: int = 1, device: str = 'cpu') -> AnalysisResult:
    """Measure the costs of metrics and of a reasoning model, one after the other, on one picture at a time.

    Args:
        metrics: names of pyiqa's metrics, or exports of RALI.
        model: the reasoning model: a folder, or a repository on the hub. It scores by the expectation.
        image: the file that is scored; reading it is part of the time.
        out: folder for costs.csv, results.json and efficiency.png.
        repeats: timed calls, after one that is not.
        threads: of torch.
        device: 'cpu' or 'cuda'.

    Raises:
        OptionError: a value cannot be used, or the folder was begun with something else.
        DataError: a metric failed.
        CheckpointError: the weights of a metric are missing.
    """
    for name, value in (('repeats', repeats), ('threads', threads)):
        if value < 1:
            raise OptionError(f'{name}: {value} must be at least 1.')
    if not Path(image).is_file():
        raise OptionError(f'image: {image} is not a file.')
    wanted: list[tuple[str, str, str | None]] = [
        (Path(each).stem, 'rali', str(each)) if Path(each).suffix else (each, each, None) for each in metrics]
    wanted.append(('reasoning model', 'rali-reasoning', str(model)))
    folder = AnalysisFolder(out, 'efficiency', {'rali': list(metrics), 'model': str(model), 'image': str(image),
                                                'repeats': repeats, 'threads': threads, 'device': device})
    folder.check_weights(weights_of(wanted))
    rows = with_shares([cost_of(label, name, path, str(image), repeats, threads, device)
                        for label, name, path in progress_bar(wanted, desc='efficiency', unit='metric')])
    draw_costs(rows, COSTS, folder.picture('efficiency'))
    shown = [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]
    return folder.finish({'costs': shown}, {'metrics': rows, 'paper': PAPER}, folder.picture('efficiency'))


def cost_of(label: str, name: str, path: str | None, image: str, repeats: int, threads: int, device: str) -> dict[str, Any]:
    """Return what one metric costs on one image file.

    Args:
        label: its name in the results.
        name: a metric of pyiqa.
        path: its weights; None takes its own.
        image: the file.
        repeats: timed calls, after one that is not.
        threads: of torch.
        device: 'cpu' or 'cuda'.
    """
    options = {} if path is None else {'pretrained_model_path': path}
    return {**measure_metric(name, image, repeats, threads, device, options), 'metric': label}


def weights_of(metrics: list[tuple[str, str, str | None]]) -> dict[str, str]:
    """Return the digest of each metric's weights by its label; pyiqa's own metrics, identified by pyiqa's version, have none.

    Args:
        metrics: label, name in pyiqa and path of each; see `cost_of`.

    Raises:
        CheckpointError: they are missing.
    """
    found = {}
    for label, name, path in metrics:
        if name == 'rali-reasoning':
            found[label] = model_sha256(locate_vlm(path or name))
        elif name in ('rali', 'rali-lite'):
            found[label] = model_sha256(locate_checkpoint(path or name, may_be_name=path is None))
    return found


def with_shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with each cost as a share of the last row's, which is the reasoning model."""
    return [{**row, **{f'{cost}_share': row[cost] / rows[-1][cost] for cost in COSTS}} for row in rows]
