"""The layouts of published reasoning models (Q-Insight, VisualQuality-R1), with tiny models in them."""

import shutil
import warnings

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image

import pyiqa_rali  # noqa: F401 (its metrics)
from pyiqa_rali.core import hub
from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.vlm import loading as vlm
from pyiqa_rali.vlm.scorer import ReasoningScorer
from tests.legacy_layouts import to_legacy_qwen
from tests.tiny import tiny_vlm

PUBLISHED = {'qinsight': 'ByteDance/Q-Insight:score_degradation', 'visualquality-r1': 'TianheWu/VisualQuality-R1-7B'}
OPTIONS = {'max_new_tokens': 4, 'device': torch.device('cpu'), 'dtype': 'float32'}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    modern = tiny_vlm(tmp_path_factory.mktemp('modern') / 'tiny')
    return modern, to_legacy_qwen(shutil.copytree(modern, tmp_path_factory.mktemp('legacy') / 'tiny'))


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_layout_gives_the_scores_of_its_weights(folders, name):
    modern, legacy = folders
    metric = pyiqa.create_metric(name, pretrained_model_path=legacy, **OPTIONS)
    assert metric.score_range == '1, 5' and metric.lower_better is False  # the metric's own: the folder has no card
    score = metric(picture()).item()
    assert 1 <= score <= 5
    reference = ReasoningScorer(pretrained_model_path=modern, max_new_tokens=4, dtype='float32',
                                score_prompt=metric.net.card.score_prompt)
    with torch.no_grad():
        for parameter, own in zip(reference.model.parameters(), metric.net.model.parameters(), strict=False):
            assert parameter.shape == own.shape and torch.equal(parameter.to(torch.bfloat16), own.to(torch.bfloat16))
            parameter.copy_(own)
    assert reference.describe([picture()])[0].rating == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_metric_asks_the_hub_for_the_published_folder(folders, name, monkeypatch):
    asked = []

    def from_hub(source, choices, **options):
        asked.append(source)
        return folders[1]

    monkeypatch.setattr(vlm, 'from_hub', from_hub)
    pyiqa.create_metric(name, **OPTIONS)
    assert asked == [PUBLISHED[name]]


def test_a_download_that_was_cut_short_is_not_taken(folders, tmp_path):
    part = shutil.copytree(folders[1], tmp_path / 'part')
    assert vlm._is_whole(folders[0]) and vlm._is_whole(part)
    (part / 'model-00002-of-00002.safetensors').unlink()
    assert not vlm._is_whole(part)
    (part / 'config.json').unlink()
    assert not vlm._is_whole(part)


def test_a_missing_shard_and_lost_weights_are_named(folders, tmp_path):
    part = shutil.copytree(folders[1], tmp_path / 'part')
    (part / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(CheckpointError, match='model-00002-of-00002'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ReasoningScorer(pretrained_model_path=part, rating_range=[1, 5])


def test_hub_names():
    assert all(hub.is_hub_name(name) for name in PUBLISHED.values())
    assert not any(hub.is_hub_name(name) for name in ('./a/b', '/a/b', '~/a', 'a', 'a/b/c'))
