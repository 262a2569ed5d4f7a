"""Folded convolutions by oneDNN: the numbers of PyTorch's own, for every padding, and nowhere without a place for them."""

import copy
import pickle
import platform

import pytest
import timm
import torch
from torch import nn

from pyiqa_rali.model import convolutions, folding, race
from pyiqa_rali.model.convolutions import OneDnnConvolution, onednn_convolves, same_padding
from pyiqa_rali.model.folding import choose_library, fold, take_library
from pyiqa_rali.model.products import ONEDNN, TORCH
from pyiqa_rali.model.rali import RALI
from tests.unit.test_rali import TIMM
from tests.unit.test_surroundings import pictures, saved

X86 = platform.machine().lower() in ('x86_64', 'amd64')  # where every PyTorch has it: without, the tests fail
pytestmark = pytest.mark.skipif(not (X86 or torch.backends.mkldnn.is_available()), reason='PyTorch has no oneDNN here')


@pytest.fixture
def asked(monkeypatch):
    """The sizes of the convolutions that oneDNN was asked for."""
    sizes, call = [], OneDnnConvolution.__call__
    monkeypatch.setattr(OneDnnConvolution, '__call__',
                        lambda self, images, *rest: sizes.append(tuple(images.shape)) or call(self, images, *rest))
    return sizes


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A folded metric whose convolutions oneDNN computes, whatever is faster here."""
    monkeypatch.setenv('PYIQA_RALI_PRODUCTS', 'onednn')
    return RALI(pretrained_model_path=saved(tmp_path, TIMM))


def test_this_pytorch_has_onednns_convolution():
    assert onednn_convolves()


def with_statistics(name, **options):
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **options).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return backbone


@pytest.mark.parametrize('name', ['tf_efficientnet_lite0', 'resnet18', 'mobilenetv3_small_100', 'regnety_002', 'tf_mixnet_s'])
@pytest.mark.parametrize('size', [(96, 64), (97, 64), (64, 63), (33, 47)])
def test_features_are_those_of_pytorch(name, size, asked):
    backbone = with_statistics(name)
    images = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = backbone(images)
        assert fold(backbone, None)
        for library, count in ((TORCH, 0), (ONEDNN, 15)):
            take_library(backbone, library)
            for _ in range(3):  # with the weights in PyTorch's order, then in oneDNN's
                assert (backbone(images) - expected).abs().max() < 2e-5 * expected.abs().max()
            assert len(asked) >= count and (count or not asked)
        larger = torch.randn(1, 3, size[0] + 31, size[1] + 32)
        found = backbone(larger)
        take_library(backbone, TORCH)
        assert (found - backbone(larger)).abs().max() < 2e-5 * found.abs().max()


@pytest.mark.parametrize(('length', 'kernel', 'stride'), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 2), (8, 3, 1), (9, 1, 2),
                                                          (10, 5, 3), (11, 7, 4), (3, 5, 2), (2, 3, 2)])
def test_padding_as_tensorflow_does(length, kernel, stride):
    from timm.layers.conv2d_same import conv2d_same
    images, weight = torch.randn(1, 1, length, 6), torch.randn(1, 1, kernel, 3)
    padding, leading = same_padding(length, kernel, stride)
    longer = nn.functional.pad(weight, (0, 0, leading, 0))
    expected = conv2d_same(images, weight, None, (stride, 1))
    found = nn.functional.conv2d(images, longer, None, (stride, 1), (padding, 1))
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-6)


def test_weights_in_onednns_order_follow_size_and_weights_and_stay_out_of_copies():
    convolution = OneDnnConvolution()
    images, bias = torch.randn(1, 8, 9, 9), torch.randn(8)
    first, second = torch.randn(8, 8, 3, 3), torch.randn(8, 8, 3, 3)
    for weight, size in ((first, 9), (first, 9), (first, 9), (first, 7), (first, 9), (second, 9), (second, 9), (second, 9)):
        given = images[..., :size]
        found = convolution(given, weight, bias, (1, 1), (1, 1), (1, 1), 1, 'relu')
        assert torch.allclose(found, nn.functional.conv2d(given, weight, bias, padding=1).relu(), atol=1e-5)
    assert convolution._kept[2].is_mkldnn
    for other in (copy.deepcopy(convolution), pickle.loads(pickle.dumps(convolution))):
        assert other._kept == (None, (), None)


def test_scores_copies_and_gradients_of_a_metric(net, asked):
    expected = net(pictures())
    assert len(asked) > 10
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(pictures()), expected)
    count = len(asked)
    images = pictures().requires_grad_()
    gradient, = torch.autograd.grad(net(images).sum(), images)
    assert len(asked) == count and gradient.abs().sum() > 0
    assert (net(images.detach()) - net(images)).abs().max() < 4e-5 and len(asked) > count
    count = len(asked)
    double = copy.deepcopy(net).double()
    assert (double(pictures()) - expected).abs().max() < 1e-4 and len(asked) == count
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(net(pictures()), expected)


def test_graphs_contain_none_of_it(net, asked):
    encoder, images = net.image_encoder, pictures()
    expected = net(images)
    asked.clear()
    with torch.no_grad():
        traced = torch.jit.trace(encoder.backbone, net.prepare(images), check_trace=False)
        program = torch.export.export(encoder.backbone, (net.prepare(images),))
    assert not asked and 'mkldnn' not in str(traced.inlined_graph) and 'mkldnn' not in str(program.graph)
    with torch.no_grad():
        for backbone in (traced, program.module()):
            encoder.backbone, own = backbone, encoder.backbone
            try:
                features = encoder.backbone(net.prepare(images))
            finally:
                encoder.backbone = own
            score = net.scorer(encoder.projection(features))
            assert (score - expected).abs().max() < 4e-5


@pytest.mark.parametrize('winner', [TORCH, ONEDNN])
def test_the_faster_library_convolves_for_each_number_of_threads(winner, tmp_path, monkeypatch, asked):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('PYIQA_RALI_PRODUCTS', raising=False)
    race.forget()
    threads, raced = torch.get_num_threads(), []
    other = 2 if threads == 1 else 1

    def measured(ways):
        raced.append(torch.get_num_threads())
        wins = winner if torch.get_num_threads() == threads else {TORCH: ONEDNN, ONEDNN: TORCH}[winner]
        return {name: 1.0 if name == wins else 2.0 for name in ways}
    monkeypatch.setattr(race, 'measured', measured)
    net = RALI(pretrained_model_path=saved(tmp_path, TIMM))
    try:
        for number, expected in ((threads, winner == ONEDNN), (other, winner == TORCH), (threads, winner == ONEDNN)):
            torch.set_num_threads(number)
            asked.clear()
            net(pictures())
            assert bool(asked) == expected
        assert raced == [threads, other]  # the third was remembered
    finally:
        torch.set_num_threads(threads)
        race.forget()


def test_a_race_is_run_and_leaves_the_backbone_alone(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('PYIQA_RALI_PRODUCTS', raising=False)
    race.forget()
    backbone = with_statistics('mobilenetv3_small_100')
    fold(backbone, None)
    choose_library(backbone, 'some', 64)
    kinds = {module.direct for module in backbone.modules() if isinstance(module, folding._Folded)}
    (questions,) = race._read().values()
    assert len(kinds) == 1 and set(questions['convolutions of some']) == {TORCH, ONEDNN}
    race.forget()


def test_a_pytorch_without_it_convolves_as_ever(net, monkeypatch, asked):
    monkeypatch.delenv('PYIQA_RALI_PRODUCTS')
    monkeypatch.setattr(folding, 'onednn_convolves', lambda: False)
    assert torch.isfinite(net(pictures())).all() and not asked


@pytest.mark.parametrize('answer', ['wrong', 'none'])
def test_another_form_of_the_operator_is_noticed(answer, monkeypatch):
    def call(self, *operands):
        if answer == 'none':
            raise TypeError('unexpected arguments')
        return torch.zeros(2, 4, 5, 4)
    monkeypatch.setattr(convolutions.OneDnnConvolution, '__call__', call)
    onednn_convolves.cache_clear()
    try:
        assert not onednn_convolves()
    finally:
        onednn_convolves.cache_clear()
