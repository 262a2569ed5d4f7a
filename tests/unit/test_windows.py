import itertools
import json

import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.windows import means_under, starts_of, weights_of, windows_of
from tests.unit.test_intervals import calibrated
from tests.unit.test_rali import TIMM, open_clip_encoder, random_rali, tensors_of

SMALL = {**TIMM, 'preprocessing': {'image_size': None, 'resize_mode': 'native', 'resize_size': 64}}


@pytest.mark.parametrize(('length', 'side'), [(1, 4), (4, 4), (5, 4), (8, 4), (9, 4), (103, 10)])
def test_windows_cover_an_edge_evenly_with_as_few_as_possible(length, side):
    starts = starts_of(length, side)
    covered = {place for start in starts for place in range(start, min(length, start + side))}
    assert covered == set(range(length)) and len(starts) == -(-length // side)
    steps = {second - first for first, second in itertools.pairwise(starts)}
    assert not steps or max(steps) - min(steps) <= 1


def test_windows_are_named_row_by_row():
    assert windows_of(40, 100, 50) == [(0, 0, 40, 50), (0, 50, 40, 100)]
    assert windows_of(60, 60, 40) == [(0, 0, 40, 40), (0, 20, 40, 60), (20, 0, 60, 40), (20, 20, 60, 60)]


def test_the_map_under_a_window_is_that_of_its_place():
    values = torch.arange(16.0).view(4, 4)
    assert means_under(values, (0, 0, 40, 40), [(0, 0, 20, 20), (20, 20, 40, 40), (0, 0, 40, 40)]).tolist() == [2.5, 12.5, 7.5]
    # the map of a centre crop: what lies beside it takes its edge
    assert means_under(values, (0, 40, 40, 80), [(0, 0, 40, 20), (0, 100, 40, 120)]).tolist() == [6.0, 9.0]


def test_weights_follow_the_quality_under_the_windows():
    means = torch.tensor([1.0, 3.0, 5.0])
    assert weights_of(means, 0, (1, 5)).tolist() == pytest.approx([1 / 3] * 3)
    assert weights_of(means, -2, (1, 5)).tolist() == pytest.approx(torch.softmax(torch.tensor([0.0, -1, -2]), 0).tolist())
    assert weights_of(means, -2, (1, 5), lower_better=True).argmax() == 2
    with pytest.raises(OptionError, match='emphasis: nan must be a finite number'):
        weights_of(means, float('nan'), (1, 5))


@pytest.mark.parametrize('emphasis', [0.0, -30.0])
def test_a_large_picture_scores_as_its_windows(emphasis):
    net = random_rali(SMALL).eval()
    picture = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        found = net.score_windows(picture, emphasis)[0]
        parts = [float(net(picture[..., top:bottom, left:right])) for top, left, bottom, right in found.windows]
    assert found.windows == [(0, 0, 64, 64), (32, 0, 96, 64)] and found.scores == pytest.approx(parts, abs=1e-5)
    assert sum(found.weights) == pytest.approx(1) and found.score == pytest.approx(
        sum(weight * score for weight, score in zip(found.weights, found.scores, strict=True)), abs=1e-5)


def test_the_option_scores_larger_pictures_by_windows_and_others_as_before(tmp_path):
    plain = random_rali(SMALL)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(plain), plain.metadata)
    net = RALI(pretrained_model_path=tmp_path / 'rali.safetensors', windows=True)
    small, large = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 130, 70)
    with torch.no_grad():
        assert torch.allclose(net(small), plain(small), atol=1e-5)
        scores = net(large)
        assert scores.shape == (2, 1) and not torch.allclose(scores, plain(large), atol=1e-6)
        assert scores.flatten().tolist() == pytest.approx([each.score for each in plain.score_windows(large)], abs=1e-5)
    with pytest.raises(OptionError, match='windows: 3 must be true or false'):
        RALI(pretrained_model_path=tmp_path / 'rali.safetensors', windows=3)


def test_the_option_has_a_gradient_and_takes_batches_of_any_length(tmp_path):
    plain = random_rali(SMALL)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(plain), plain.metadata)
    net, large = RALI(pretrained_model_path=tmp_path / 'rali.safetensors', windows=True), torch.rand(1, 3, 130, 70)
    large.requires_grad_()
    net(large).sum().backward()
    assert (large.grad.abs().amax(dim=(0, 1, 3)) > 0).all()  # every row of the picture
    assert net(torch.rand(0, 3, 130, 70)).shape == (0, 1) and net.score_windows(torch.rand(0, 3, 130, 70)) == []


def test_what_belongs_to_the_whole_picture_is_not_told_beside_the_score_of_its_windows(tmp_path):
    save_checkpoint(tmp_path / 'rali.safetensors', *calibrated(random_rali(SMALL)))
    net = RALI(pretrained_model_path=tmp_path / 'rali.safetensors', windows=True)
    assert net.score_with_interval(torch.rand(1, 3, 64, 40)).low.shape == (1, 1)
    for ask in (net.score_with_interval, net.explain):
        with pytest.raises(OptionError, match='windows: true scores pictures of 70 x 130 pixels by their windows'):
            ask(torch.rand(1, 3, 130, 70))


def test_files_are_taken_too(tmp_path):
    net, pixels = random_rali(SMALL).eval(), torch.randint(0, 255, (96, 64, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / 'large.png')
    picture = pixels.permute(2, 0, 1)[None]
    assert net.score_windows(tmp_path / 'large.png')[0].score == pytest.approx(net.score_windows(picture)[0].score, abs=1e-5)
    assert torch.allclose(net.quality_map(str(tmp_path / 'large.png')), net.quality_map(picture), atol=1e-5)


def test_an_encoder_with_a_fixed_size_takes_windows_of_that_size(tmp_path):
    net = random_rali(open_clip_encoder(tmp_path)).eval()
    found = net.score_windows(torch.rand(1, 3, 32, 80), -1.0)[0]
    assert found.windows == [(0, 0, 32, 32), (0, 24, 32, 56), (0, 48, 32, 80)]


def test_score_takes_windows_as_an_option_of_the_metric(tmp_path, capsys):
    net = random_rali(SMALL)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    picture = torch.randint(0, 255, (96, 64, 3), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / 'large.png')
    arguments = ['score', str(tmp_path / 'large.png'), '--weights', str(tmp_path / 'rali.safetensors'), '--device', 'cpu']
    assert main([*arguments, '--metric-opt', 'windows=true', '--out', str(tmp_path / 'scores.jsonl')]) == 0
    row = json.loads((tmp_path / 'scores.jsonl').read_text().splitlines()[0])
    expected = net.eval().score_windows(picture.permute(2, 0, 1)[None] / 255)[0].score
    assert row['score'] == pytest.approx(expected, abs=1e-3)
