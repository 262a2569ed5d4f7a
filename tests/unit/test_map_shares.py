import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint, save_pth
from pyiqa_rali.model.checkpoint_map import with_map
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.map_shares import (
    Halves,
    MapOptions,
    fit_map,
    fit_shares,
    order_loss,
    positions_inside,
    scores_of,
)
from tests.unit.test_rali import random_rali, tensors_of


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    for number in range(3):
        small = Image.fromarray(rng.integers(0, 255, (12, 14, 3), dtype=np.uint8))
        small.resize((244, 212), Image.Resampling.BICUBIC).save(folder / f'{number}.png')
    return folder


def lively_rali():
    """Return a model whose scores differ between pictures, as those of trained models do."""
    net = random_rali()
    with torch.no_grad():
        encoder = net.image_encoder.eval()
        encoder.projection[0].fit(encoder.backbone_rows(encoder.preprocess(torch.rand(8, 3, 64, 64) ** torch.rand(8, 3, 1, 1))))
        net.scorer.pca_mean.copy_(encoder(torch.rand(4, 3, 64, 64)).mean(dim=0))
    return net


def options(photographs, **changes):
    return MapOptions(**{'photos': [str(photographs)], 'pictures': 4, 'size': (208, 240), 'split_ratios': (1, 0, 0),
                         'steps': 20, 'only': 'white_noise', **changes})


def test_a_fit_takes_what_halves_differ_by_and_leaves_what_is_content():
    net = random_rali().eval().requires_grad_(False)
    torch.manual_seed(0)
    width = 2 * 3
    with torch.no_grad():  # the score rises with the first output alone
        net.image_encoder.projection = torch.nn.Linear(width, 12)
        net.image_encoder.projection.requires_grad_(False)
        net.image_encoder.projection.weight.normal_()
    whole = torch.randn(40, width)
    side = torch.where(torch.arange(8) < 4, 1.0, -1.0).expand(40, 8)
    content = 2 * torch.randn(40, 8, width)
    content[..., 0] = side
    want = torch.zeros(width)
    want[0] = 1
    targets = scores_of(net, Halves(whole, content, torch.zeros(40, 8)), want)
    halves = Halves(whole, content, targets)
    fitted = fit_shares(net, halves, MapOptions(steps=120, lr=4e-2))
    before, after = ((scores_of(net, halves, each) - targets).abs().mean() for each in (torch.full((width,), 0.5), fitted))
    assert after < before / 3 and fitted[0] > 0.7 and fitted[1:].abs().max() < 0.3


def test_the_loss_on_order_falls_when_positions_stand_right():
    targets = torch.tensor([[0.2, 0.2, 0.8, 0.8]])
    right, wrong, equal = (order_loss(torch.tensor([scores]), targets) for scores in
                           ([0.3, 0.4, 0.6, 0.7], [0.7, 0.6, 0.4, 0.3], [0.5] * 4))
    assert right < equal < wrong
    assert order_loss(torch.rand(2, 4), torch.full((2, 4), 0.5)) == 0


def test_the_middle_of_a_position_decides_on_which_side_it_is():
    where = np.zeros((6, 8), bool)
    where[:, :4] = True
    assert positions_inside(where, (3, 4)).tolist() == [[True, True, False, False]] * 3
    assert positions_inside(where, (1, 3)).tolist() == [[True, False, False]]


def test_a_fitted_checkpoint_has_its_shares_and_the_same_scores(photographs, tmp_path):
    net = lively_rali()
    save_checkpoint(tmp_path / 'old.safetensors', tensors_of(net), net.metadata)
    found = fit_map(tmp_path / 'old.safetensors', tmp_path / 'new.safetensors', options(photographs))
    assert found.pictures == 4 and found.error <= found.error_before
    old, new = (RALI(pretrained_model_path=tmp_path / f'{name}.safetensors') for name in ('old', 'new'))
    images = torch.rand(2, 3, 208, 240)
    images[..., 120:] *= 0.3
    assert torch.equal(old(images), new(images)) and old.map is None and new.metadata['format_version'] == 4
    assert (new.map.shares - 0.5).abs().max() > 0.01
    assert not torch.allclose(new.quality_map(images), new.quality_map(images, 0.5), atol=1e-4)
    assert torch.equal(old.quality_map(images), new.quality_map(images, 0.5))
    again = fit_map(tmp_path / 'old.safetensors', tmp_path / 'again.safetensors', options(photographs))
    first, second = (load_checkpoint(tmp_path / f'{name}.safetensors')[0]['map.shares'] for name in ('new', 'again'))
    assert torch.equal(first, second) and again.error == found.error


def test_shares_travel_with_every_format_and_state_dict(tmp_path):
    net = random_rali()
    width = 2 * sum(net.image_encoder.backbone.features.feature_info.channels())
    tensors, metadata = with_map(tensors_of(net), net.metadata, torch.rand(width), {})
    save_pth(tmp_path / 'rali.pth', tensors, metadata)
    loaded = RALI(pretrained_model_path=tmp_path / 'rali.pth')
    other = random_rali(seed=1)
    other.load_state_dict(loaded.state_dict())
    images = torch.rand(1, 3, 208, 240)
    assert torch.equal(loaded.map.shares, tensors['map.shares'])
    assert torch.allclose(other.quality_map(images), loaded.quality_map(images), atol=1e-5)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors, metadata: tensors.pop('map.shares'), 'its map lacks map.shares'),
    (lambda tensors, metadata: metadata.pop('map'), 'its map lacks its metadata'),
    (lambda tensors, metadata: tensors['map.shares'].fill_(float('nan')), 'not finite'),
    (lambda tensors, metadata: metadata['map'].update(width=3), r'it must be \(3,\). Fit it again')])
def test_broken_shares_are_refused(tmp_path, change, message):
    net = random_rali()
    tensors, metadata = with_map(tensors_of(net), net.metadata, torch.rand(8), {})
    change(tensors, metadata)
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / 'rali.safetensors', tensors, metadata)


def test_wrong_options_are_refused(photographs, tmp_path):
    with pytest.raises(OptionError, match='must be at least 1'):
        fit_map('rali-lite', tmp_path / 'new.safetensors', options(photographs, steps=0))
    assert main(['fit-map', 'rali-lite', '--out', str(tmp_path / 'new.pth'), '--pictures', '0']) == 2
