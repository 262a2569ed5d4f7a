"""What RALI costs against the reasoning model: parameters, time and memory, each metric in a process of its own."""

from typing import Any

from pyiqa_rali.core.files import model_sha256
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.studies.benchmark.speed import measure_metric
from pyiqa_rali.vlm.loading import locate_vlm

COSTS = ('parameters', 'median_ms', 'peak_mb')
PAPER = {'parameters': 0.04, 'median_ms': 0.034, 'peak_mb': 0.147}  # RALI over Q-Insight 7B, batch 16, one A100


def cost_of(label: str, name: str, path: str | None, image: str, repeats: int, threads: int, device: str) -> dict[str, Any]:
    """Return what one metric costs on one image file.

    Args:
        label: what to call it.
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
    """Return the digest of each metric's weights by its label; pyiqa's own metrics, whose version tells theirs, have none.

    Args:
        metrics: label, name in pyiqa and path of each; see `cost_of`.

    Raises:
        CheckpointError: they are not there.
    """
    found = {}
    for label, name, path in metrics:
        if name == 'rali-reasoning':
            found[label] = model_sha256(locate_vlm(path))
        elif name in ('rali', 'rali-lite'):
            found[label] = model_sha256(locate_checkpoint(path or name, may_be_name=path is None))
    return found


def with_shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with each cost as a share of the last row's, which is the reasoning model."""
    return [{**row, **{f'{cost}_share': row[cost] / rows[-1][cost] for cost in COSTS}} for row in rows]
