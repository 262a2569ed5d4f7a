"""What the expectation of a rating costs beside the greedy answer of the same model."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pyiqa_rali.scoring.entries import chunks
from pyiqa_rali.vlm.settings import ReasonerSettings


def expectation_cost(settings: ReasonerSettings, images: int = 16, size: int = 384, repeats: int = 5) -> dict[str, Any]:
    """Time both modes of a reasoning model on the same pictures, in turns.

    Args:
        settings: the model, and how many pictures it sees at once.
        images: how many pictures, of noise of several strengths.
        size: their edge, in pixels.
        repeats: how often each mode is timed, after once without timing.

    Returns:
        Median seconds of 'greedy' and 'expectation', their 'ratio' (median of the ratios of neighbours), 'cpu_ratio' (the same
        of the time on the CPU, which other programs hardly change), 'tokens' (mean length of the completions), 'reuses_cache'
        and 'repeats'.
    """
    net = settings.scorer()
    net.mode = 'expectation'
    rng = np.random.default_rng(settings.seed)
    pictures = [Image.fromarray(rng.normal(128, 5 + 5 * number, (size, size, 3)).clip(0, 255).astype(np.uint8))
                for number in range(images)]
    ways: dict[str, Callable[[], list[str]]] = {
        'greedy': lambda: _greedy_answers(net, pictures),  # an answer without a rating is one too
        'expectation': lambda: [each.completion for each in net.describe(pictures)]}
    seconds: dict[str, list[tuple[float, float]]] = {mode: [] for mode in ways}
    answers: list[str] = []
    for turn in range(repeats + 1):
        for mode, way in ways.items():
            begin, cpu = time.perf_counter(), time.process_time()
            answers = way()
            if turn:
                seconds[mode].append((time.perf_counter() - begin, time.process_time() - cpu))
    pairs = list(zip(*seconds.values(), strict=True))
    lengths = [len(net.reasoner.processor.tokenizer.encode(answer)) for answer in answers]
    return {**{mode: statistics.median(clock for clock, _ in taken) for mode, taken in seconds.items()},
            'ratio': statistics.median(expected[0] / greedy[0] for greedy, expected in pairs),
            'cpu_ratio': statistics.median(expected[1] / greedy[1] for greedy, expected in pairs),
            'tokens': statistics.fmean(lengths), 'reuses_cache': net.reasoner.reuses_cache, 'repeats': repeats}


def _greedy_answers(net: Any, pictures: list[Image.Image]) -> list[str]:
    """Return what a reasoning model writes about pictures, in the batches of its scores."""
    from pyiqa_rali.vlm.generation import complete, decode
    completions = [completion for part in chunks(pictures, net.batch_size)
                   for completion in complete(net.reasoner, part, net.card.prompt(), net.max_new_tokens)]
    return [decode(net.reasoner, completion) for completion in completions]
