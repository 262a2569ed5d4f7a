"""What the expectation of a rating costs beside the greedy answer of the same model."""

import statistics
import time
from typing import Any

import numpy as np
from PIL import Image

from pyiqa_rali.vlm.settings import ReasonerSettings


def expectation_cost(settings: ReasonerSettings, images: int = 16, size: int = 384, repeats: int = 5) -> dict[str, Any]:
    """Time both modes of a reasoning model on the same pictures, in turns.

    Args:
        settings: the model, and how many pictures it sees at once.
        images: how many pictures, of noise of several strengths.
        size: their edge, in pixels.
        repeats: how often each mode is timed, after once without timing.

    Returns:
        Median seconds of 'greedy' and 'expectation', their 'ratio' (median of the ratios of neighbours), 'tokens' (mean
        length of the completions), 'reuses_cache' and 'repeats'.
    """
    net = settings.scorer()
    net.resamples = 0  # an answer without a rating is no part of the comparison
    rng = np.random.default_rng(settings.seed)
    pictures = [Image.fromarray(rng.normal(128, 5 + 5 * number, (size, size, 3)).clip(0, 255).astype(np.uint8))
                for number in range(images)]
    seconds: dict[str, list[float]] = {'greedy': [], 'expectation': []}
    lengths: list[int] = []
    for turn in range(repeats + 1):
        for net.mode, taken in seconds.items():
            begin = time.perf_counter()
            found = net.describe(pictures)
            if turn:
                taken.append(time.perf_counter() - begin)
            lengths = [len(net.reasoner.processor.tokenizer.encode(each.completion)) for each in found]
    ratios = [expected / greedy for greedy, expected in zip(*seconds.values(), strict=True)]
    return {**{mode: statistics.median(taken) for mode, taken in seconds.items()}, 'ratio': statistics.median(ratios),
            'tokens': statistics.fmean(lengths), 'reuses_cache': net.reasoner.reuses_cache, 'repeats': repeats}
