"""What RALI costs against the reasoning model: parameters, time and memory, each metric in a process of its own."""

from typing import Any

from pyiqa_rali.evaluation.speed import measure_metric

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


def with_shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with each cost as a share of the last row's, which is the reasoning model."""
    return [{**row, **{f'{cost}_share': row[cost] / rows[-1][cost] for cost in COSTS}} for row in rows]
