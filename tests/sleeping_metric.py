"""A metric that takes its time, and ends its process on demand; whoever unpickles `Sleeping` has it in pyiqa."""

import os
import time

import pyiqa.default_model_configs
import torch
from pyiqa.utils.registry import ARCH_REGISTRY

from pyiqa_rali.scoring.sources import ImageSources

NAME = 'sleeping-brightness'
DEADLY = (7, 7, 7)  # a colour over which the process ends


class SleepingBrightness(torch.nn.Module):
    """Mean brightness, in so many seconds for each picture; too small a picture is an error.

    Args:
        seconds: for each picture.
    """

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def forward(self, pictures):
        """Return scores (N, 1)."""
        time.sleep(self.seconds * len(pictures))
        if min(pictures.shape[-2:]) < 16:
            raise RuntimeError('too small')
        if ((pictures * 255).round() == torch.tensor(DEADLY)[:, None, None]).flatten(1).all(1).any():
            os._exit(9)
        return pictures.mean((1, 2, 3))[:, None]


class Sleeping(ImageSources):
    """Sources that bring the metric along to the processes of a cluster."""


if NAME not in pyiqa.default_model_configs.DEFAULT_CONFIGS:
    ARCH_REGISTRY.register()(SleepingBrightness)
    pyiqa.default_model_configs.DEFAULT_CONFIGS[NAME] = {
        'metric_opts': {'type': 'SleepingBrightness'}, 'metric_mode': 'NR', 'score_range': '0, 1'}
