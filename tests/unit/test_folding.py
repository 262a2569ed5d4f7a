"""Batch norms folded into convolutions: same scores, same state dict, and never a stale weight."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from pyiqa_rali.model.folding import PLAIN, fold, state_of, unfold, unfolded
from pyiqa_rali.model.rali import RALI
from tests.unit.test_rali import TIMM, random_rali, tensors_of
from tests.unit.test_surroundings import pictures, saved


def folded_in(net):
    return sum(type(module) in PLAIN for module in net.modules())


@pytest.fixture
def nets(tmp_path):
    """The same weights as they score, folded, and as they are trained."""
    path = saved(tmp_path, TIMM)
    return RALI(pretrained_model_path=path), RALI(pretrained_model_path=path, trainable=True)


def test_scores_are_those_of_the_network_that_was_trained(nets):
    net, trainable = nets
    assert folded_in(net) > 20 and folded_in(trainable) == 0
    with torch.no_grad():
        for size in ((48, 60), (64, 33), (16, 16)):
            expected = trainable(pictures(3, size))
            assert (net(pictures(3, size)) - expected).abs().max() < 4e-5  # 1e-5 of the range
    images = [pictures().requires_grad_() for _ in nets]
    gradients = [torch.autograd.grad(each(image).sum(), image)[0] for each, image in zip(nets, images, strict=True)]
    assert gradients[0].abs().sum() > 0
    assert (gradients[0] - gradients[1]).abs().max() < 1e-3 * gradients[1].abs().max()


def test_state_dicts_and_exports_are_those_of_the_network_that_was_trained(nets):
    from pyiqa_rali.export.onnx_model import FittedScorer
    from pyiqa_rali.model.digest import weights_digest
    net, trainable = nets
    assert list(net.state_dict()) == list(trainable.state_dict())
    assert all(torch.equal(tensor, tensors_of(trainable)[name]) for name, tensor in tensors_of(net).items())
    assert weights_digest(net) == weights_digest(trainable)
    assert list(FittedScorer(net).state_dict()) == list(FittedScorer(trainable).state_dict())
    assert folded_in(FittedScorer(net)) == 0 and folded_in(net) > 20


def test_copies_moves_and_casts_stay_folded(nets, monkeypatch):
    net, _ = nets
    expected, count = net(pictures()), folded_in(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.to('cpu'),
                  net.to(memory_format=torch.channels_last)):
        assert torch.equal(other(pictures()), expected) and folded_in(other) == count
    double = copy.deepcopy(net).double()
    assert (double(pictures()) - expected).abs().max() < 1e-4 and folded_in(double) == count
    half = RALI(pretrained=False, image_encoder=TIMM, pca_dim=6, num_basis=9, mos_range=(1, 5), lower_better=False,
                precision='bf16', trainable=False)
    half.load_state_dict(net.state_dict())
    assert folded_in(half) == count and torch.isfinite(half(pictures())).all()


@pytest.mark.parametrize('change', ['write', 'gradient', 'load', 'statistics'])
def test_weights_that_change_are_not_scored_with_stale_ones(nets, change):
    net, trainable = nets
    before = net(pictures())
    for each in nets:
        features = each.image_encoder.backbone.features
        if change == 'write':
            with torch.no_grad():
                features.conv_stem.weight.mul_(1.5)
        elif change == 'load':
            features.load_state_dict({name: tensor * 1.1 for name, tensor in features.state_dict().items()})
        elif change == 'statistics':
            features.bn1.running_mean.add_(0.5)
    if change == 'gradient':
        net.requires_grad_(True)
        net(pictures()).sum().backward()
        assert net.image_encoder.backbone.features.conv_stem.weight.grad.abs().sum() > 0
        return
    copied = copy.deepcopy(net)
    with torch.no_grad():
        expected = trainable(pictures())
        assert (net(pictures()) - expected).abs().max() < 1e-5 < (net(pictures()) - before).abs().max()
        assert (copied(pictures()) - expected).abs().max() < 1e-5
    assert folded_in(net) == folded_in(copied) == 0


def test_other_weights_are_folded_in_turn(nets):
    net, _ = nets
    other = random_rali(TIMM, seed=8)
    other.image_encoder.backbone.features.bn1.running_var.fill_(2.0)
    net.load_state_dict(other.state_dict())
    assert folded_in(net) > 20
    with torch.no_grad():
        assert (net(pictures()) - other(pictures())).abs().max() < 4e-5


@pytest.mark.parametrize('name', ['resnet18', 'tf_efficientnet_lite0', 'mobilenetv3_small_100', 'regnety_002', 'densenet121'])
def test_other_backbones(name):
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    images, plain = torch.randn(2, 3, 96, 64), copy.deepcopy(backbone)
    assert fold(backbone, None) and folded_in(backbone) > 20
    with torch.no_grad():
        expected = plain(images)
        assert (backbone(images) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.equal(unfolded(backbone)(images), expected)
        unfold(backbone)
        assert torch.equal(backbone(images), expected) and not state_of(backbone)
    assert {name for name, _ in backbone.named_buffers()} == {name for name, _ in plain.named_buffers()}


def test_open_clips_convolutional_towers(tmp_path):
    config = {'embed_dim': 16, 'vision_cfg': {'image_size': 64, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None},
              'text_cfg': {'context_length': 24, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 1}}
    path = saved(tmp_path, {'library': 'open_clip', 'name': 'tiny', 'embed_dim': 16, 'model_config': config,
                            'preprocessing': {'image_size': 64}})
    net, trainable = RALI(pretrained_model_path=path), RALI(pretrained_model_path=path, trainable=True)
    assert folded_in(net) > 20
    with torch.no_grad():
        assert (net(pictures(2, (64, 64))) - trainable(pictures(2, (64, 64)))).abs().max() < 4e-5


class Branched(nn.Module):
    """A convolution whose output is used beside the batch norm, and one that runs twice: neither can be folded."""

    def __init__(self, twice):
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), twice
        self.norm.running_mean.fill_(0.3)

    def forward(self, images):
        found = self.conv(self.conv(images)) if self.twice else self.conv(images)
        return self.norm(found) + (0 if self.twice else found)


@pytest.mark.parametrize('twice', [False, True])
def test_what_cannot_be_folded_stays(twice):
    net = Branched(twice).eval()
    expected = net(pictures())
    assert not fold(net, None) and folded_in(net) == 0 and torch.equal(net(pictures()), expected)
    assert not fold(nn.Sequential(nn.Linear(3, 3)), None)


def test_statistics_of_stages_are_those_of_torch():
    from pyiqa_rali.model.image_encoder import _mean_and_variance
    maps = torch.randn(2, 7, 9, 11) * 3 + 5
    for each in (maps, maps.contiguous(memory_format=torch.channels_last)):
        mean, variance = _mean_and_variance(each)
        assert torch.allclose(mean, maps.double().mean(dim=(2, 3)).float(), rtol=1e-5)
        assert torch.allclose(variance, maps.double().var(dim=(2, 3), correction=0).float(), rtol=1e-5)
