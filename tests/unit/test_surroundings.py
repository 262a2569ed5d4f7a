"""A metric's scores depend on its weights and on the picture, and on nothing around it."""

import copy
import multiprocessing
import pickle
import sys
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pyiqa
import pytest
import torch
from torch import nn

import pyiqa_rali  # noqa: F401 (registers)
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model import preprocessing
from pyiqa_rali.model.checkpoint import save_checkpoint, save_pth
from pyiqa_rali.model.preprocessing import has_float64, resize
from tests.tiny import tiny_vlm
from tests.unit.test_precision import ENCODER as CLIP
from tests.unit.test_rali import TIMM, random_rali, tensors_of

HEAD = {'library': 'timm', 'name': 'test_vit', 'embed_dim': 12, 'preprocessing': {'image_size': 160}}
ENCODERS = {'timm': TIMM, 'clip': CLIP, 'head': HEAD}


def saved(folder, encoder, **options):
    """Write a checkpoint whose batch statistics are not those of the pictures here, and return its path."""
    net = random_rali(encoder, **options)
    generator = torch.Generator().manual_seed(options.get('seed', 0))
    for name, buffer in net.named_buffers():
        if 'running' in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    save_checkpoint(folder / 'rali.safetensors', tensors_of(net), net.metadata)
    save_pth(folder / 'rali.pth', tensors_of(net), net.metadata)
    return folder / 'rali.safetensors'


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


@pytest.fixture
def path(encoder, tmp_path):
    return saved(tmp_path, encoder)


def metric_of(path, **options):
    return pyiqa.create_metric('rali', device='cpu', pretrained_model_path=path, **options)


def pictures(count=3, size=(48, 60)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


class Restorer(nn.Module):
    """A user's model, of which the metric is a part."""

    def __init__(self, metric):
        super().__init__()
        self.body, self.quality = nn.Conv2d(3, 3, 3, padding=1), metric


def test_a_surrounding_models_training_changes_nothing(path):
    metric = metric_of(path, as_loss=True, loss_reduction='none')
    before, state = metric(pictures()).detach(), copy.deepcopy(metric.net.state_dict())
    model = Restorer(metric)
    assert not any(parameter.requires_grad for parameter in metric.net.parameters())
    model.train()
    assert torch.equal(metric(pictures()), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = model.body.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        (5 - model.quality(model.body(pictures()))).mean().backward()
        optimizer.step()
    assert not torch.equal(model.body.weight, weights)  # the gradient came through
    assert all(torch.equal(tensor, state[name]) for name, tensor in metric.net.state_dict().items())
    assert torch.equal(metric(pictures()), before)


def test_trainable_weights_are_trained(tmp_path):
    metric = metric_of(saved(tmp_path, TIMM), as_loss=True, trainable=True)
    assert all(parameter.requires_grad for parameter in metric.net.parameters()) and not metric.net.training
    before = copy.deepcopy(metric.net.state_dict())
    metric.train()
    metric(pictures()).backward()
    assert all(parameter.grad is not None for parameter in metric.net.parameters())
    assert not torch.equal(metric.net.state_dict()['image_encoder.backbone.features.bn1.running_mean'],
                           before['image_encoder.backbone.features.bn1.running_mean'])
    metric.net.load_state_dict(before)
    assert metric.net.training and all(parameter.requires_grad for parameter in metric.net.parameters())


def test_weights_that_are_loaded_later_ask_for_no_gradient_either(tmp_path):
    metric = metric_of(saved(tmp_path, TIMM))
    metric.net.load_state_dict(random_rali(CLIP, seed=3).state_dict())
    assert not any(parameter.requires_grad for parameter in metric.net.parameters())
    with pytest.raises(OptionError, match="trainable: 'yes' must be true or false"):
        metric_of(tmp_path, trainable='yes')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_surrounding_autocast_changes_nothing(path, dtype):
    metric = metric_of(path)
    expected = metric(pictures())
    with torch.autocast('cpu', dtype=dtype):
        found = metric(pictures())
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_program_whose_default_is_double_precision_changes_nothing(path):
    expected = metric_of(path)(pictures())
    torch.set_default_dtype(torch.float64)
    try:
        metric = metric_of(path)
        found = metric(pictures().float())
        metric.net.load_state_dict(metric.net.state_dict())
        again = metric(pictures().float())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == again.dtype == torch.float32
    assert {parameter.dtype for parameter in metric.net.parameters()} == {torch.float32}
    assert pictures().dtype == torch.float32 and torch.isfinite(expected).all()


def test_a_metric_that_is_made_in_inference_mode_has_gradients_afterwards(path):
    with torch.inference_mode():
        metric = metric_of(path, as_loss=True)
        metric.net.load_state_dict(metric.net.state_dict())
        metric.to(torch.float64).to(torch.float32)
        found = metric.net(pictures())
    images = pictures().requires_grad_()
    metric(images).backward()
    assert images.grad.abs().sum() > 0
    assert torch.equal(metric.net(pictures()), found)


@pytest.mark.parametrize('as_loss', [False, True])
def test_the_type_of_a_picture_changes_nothing(path, as_loss):
    metric = metric_of(path, as_loss=as_loss)
    levels = torch.randint(0, 256, (1, 3, 48, 48), generator=torch.Generator().manual_seed(2))
    levels[..., :4, :4], levels[..., 4:8, 4:8] = 255, 0
    unit = levels.double() / 255
    expected = metric(unit.float())
    assert torch.equal(metric(unit), expected)
    assert torch.equal(metric(levels.to(torch.uint8)), expected)
    assert (metric((levels * 257).to(torch.uint16)) - expected).abs().max() < 1e-5
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(metric(unit.to(dtype)), metric(unit.to(dtype).float()))


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64])
def test_whole_numbers_without_a_white_are_refused(tmp_path, dtype):
    metric = metric_of(saved(tmp_path, TIMM))
    images = torch.ones(1, 3, 48, 48).to(dtype)
    for call in (metric, metric.net, metric.net.prepare):
        with pytest.raises(OptionError, match=f'type {dtype}, which does not tell the value of white. Scale them'):
            call(images)


def test_pictures_out_of_range_are_refused_as_pyiqa_does(tmp_path):
    metric = metric_of(saved(tmp_path, TIMM))
    for images in (pictures() * 2, pictures() - 0.5, (pictures() * 3).half(), pictures() * float('nan')):
        with pytest.raises(AssertionError, match='Input must be normalized'):
            metric(images)
    with pytest.raises(AssertionError, match='Input must be RGB or gray image'):
        metric(torch.rand(1, 4, 48, 48))
    with pytest.raises(AssertionError, match='Input must be normalized'):
        pyiqa.create_metric('piqe', device='cpu')(torch.ones(1, 3, 96, 96, dtype=torch.float16))  # others stay pyiqa's


def copies(metric):
    return {'deepcopy': copy.deepcopy(metric), 'pickle': pickle.loads(pickle.dumps(metric))}


def test_range_and_direction_follow_the_weights_into_copies(tmp_path):
    (tmp_path / 'first').mkdir()
    (tmp_path / 'second').mkdir()
    first = saved(tmp_path / 'first', TIMM, mos_range=(0, 9), lower_better=True)
    second = saved(tmp_path / 'second', CLIP, seed=5, mos_range=(1, 5))
    state = metric_of(second).state_dict()
    for name in ('deepcopy', 'pickle', 'itself'):
        metric = metric_of(first)
        assert (metric.score_range, metric.lower_better) == ('0, 9', True)
        metric = {**copies(metric), 'itself': metric}[name]
        assert (metric.score_range, metric.lower_better) == ('0, 9', True)
        assert torch.equal(metric(pictures()), metric_of(first)(pictures()))
        metric.net.load_state_dict(random_rali(TIMM, mos_range=(2, 3)).state_dict())
        assert (metric.score_range, metric.lower_better) == ('2, 3', False)
        metric.load_weights(str(first.with_suffix('.pth')))
        assert (metric.score_range, metric.lower_better) == ('0, 9', True)
        metric.load_state_dict(state)  # of another encoder, too
        assert (metric.score_range, metric.lower_better) == ('1, 5', False)
        assert torch.equal(metric(pictures()), metric_of(second)(pictures()))


def test_weights_come_as_a_part_of_a_larger_model(tmp_path):
    (tmp_path / 'first').mkdir()
    (tmp_path / 'second').mkdir()
    model = Restorer(metric_of(saved(tmp_path / 'first', TIMM)))
    other = Restorer(metric_of(saved(tmp_path / 'second', CLIP, seed=5, num_basis=7)))
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.quality(pictures()), other.quality(pictures()))
    assert not any(parameter.requires_grad for parameter in model.quality.net.parameters())
    model.load_state_dict({'body.weight': other.body.weight}, strict=False)  # nothing for the metric
    before = model.quality(pictures())
    broken = {name: tensor for name, tensor in other.state_dict().items() if not name.endswith('conv1.weight')}
    with pytest.raises(CheckpointError, match='do not fit the encoder'):
        model.load_state_dict(broken, strict=False)
    assert torch.equal(model.quality(pictures()), before)


def test_other_metrics_keep_their_range_as_an_attribute():
    metric = pyiqa.create_metric('piqe', device='cpu')
    assert metric.lower_better is True and metric.score_range == vars(metric)['score_range']
    metric.score_range = 'mine'
    assert copy.deepcopy(metric).score_range == 'mine'
    del vars(metric)['score_range']
    with pytest.raises(AttributeError, match='score_range'):
        metric.score_range  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_nets_give_the_same_scores(path, backend):
    metric = metric_of(path)
    expected = metric(pictures())
    compiled = torch.compile(metric.net, backend=backend)
    with torch.no_grad():
        assert (compiled(pictures()) - expected).abs().max() < 1e-5
    metric.net = compiled
    assert (metric(pictures()) - expected).abs().max() < 1e-5
    assert metric.score_range == compiled._orig_mod.score_range and metric.lower_better is False
    images = pictures().requires_grad_()
    compiled(images).sum().backward()
    assert images.grad.abs().sum() > 0
    torch._dynamo.reset()


def replicas_of(net, monkeypatch):
    """Return what `DataParallel` makes of a net for two devices, with copies on the CPU in place of other GPUs."""
    replication = sys.modules['torch.nn.parallel.replicate']  # the package has a function of this name
    monkeypatch.setattr(replication, '_get_device_index', lambda device, optional: device)
    monkeypatch.setattr(replication, '_broadcast_coalesced_reshape',
                        lambda tensors, devices, detach: [[tensor.clone() for tensor in tensors] for _ in devices])
    return replication.replicate(net, [0, 1])


def test_replicas_of_data_parallel_score(path, monkeypatch):
    metric = metric_of(path)
    expected = metric(pictures())
    for replica in replicas_of(metric.net, monkeypatch):
        assert not list(replica.parameters())  # as on GPUs
        with torch.no_grad():
            assert torch.equal(replica(pictures()), expected)
    for replica in replicas_of(metric, monkeypatch):
        assert torch.equal(replica(pictures()), expected) and replica.score_range == metric.score_range
    metric.net = nn.DataParallel(metric.net)
    assert torch.equal(metric(pictures()), expected) and metric.score_range == '1, 5'


def test_threads_do_not_disturb_each_other(path):
    metric = metric_of(path)
    images = [pictures(2, (40 + 8 * number, 64)) for number in range(6)]
    expected = [metric(each) for each in images]
    found = [None] * len(images)

    def work(number):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=number % 2 == 1):
            for _ in range(3):
                found[number] = metric(images[number])
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_device_without_double_precision_leaves_the_resizing_to_the_cpu(monkeypatch):
    assert has_float64('cpu') and not has_float64('mps')
    expected = resize(pictures(), 30, 41)
    monkeypatch.setattr(preprocessing, 'has_float64', lambda kind: False)
    images = pictures().requires_grad_()
    found = resize(images, 30, 41)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert images.grad.abs().sum() > 0


def test_samples_are_the_same_on_a_device_without_double_precision(monkeypatch):
    from pyiqa_rali.vlm import generation
    from pyiqa_rali.vlm.decoding import Sampling
    logits = torch.randn(2, 50)
    expected = generation.GumbelSampling([1, 2], Sampling(top_k=20))(None, logits)
    monkeypatch.setattr(generation, 'has_float64', lambda kind: False)
    found = generation.GumbelSampling([1, 2], Sampling(top_k=20))(None, logits)
    assert found.dtype == torch.float32 and torch.equal(found, expected.float())


@pytest.fixture(scope='module')
def reasoning(tmp_path_factory):
    return tiny_vlm(tmp_path_factory.mktemp('vlm') / 'tiny')


def test_the_reasoning_model_does_not_depend_on_its_surroundings_either(reasoning):
    metric = pyiqa.create_metric('rali-reasoning', device='cpu', pretrained_model_path=reasoning, max_new_tokens=6)
    images = pictures(2, (40, 40))
    expected = metric(images)
    assert metric.score_range == '1, 5' and not any(parameter.requires_grad for parameter in metric.parameters()
                                                    if parameter.numel())
    model = Restorer(metric)
    model.train()
    assert not any(module.training for module in metric.net.model.modules())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(metric(images), expected)
    levels = (images * 255).round()
    assert torch.equal(metric(levels.to(torch.uint8)), metric(levels / 255))
    assert torch.equal(metric((levels / 255).double()), metric(levels / 255))
    for other in copies(metric).values():
        assert torch.equal(other(images), expected) and other.score_range == '1, 5'
    with pytest.raises(OptionError, match='does not tell the value of white'):
        metric(levels.long())


def test_a_reasoning_model_in_training_is_scored_without_dropout_and_goes_on_training(reasoning):
    from pyiqa_rali.vlm.loading import load_vlm
    from pyiqa_rali.vlm.scorer import ReasoningScorer
    reasoner = load_vlm(reasoning)
    net = ReasoningScorer(reasoner, max_new_tokens=6)
    expected = net(pictures(2, (40, 40)))
    reasoner.model.train()
    assert torch.equal(net(pictures(2, (40, 40))), expected)
    assert reasoner.model.training and all(parameter.requires_grad for parameter in reasoner.model.parameters())


def open_files():
    return len(list(Path('/proc/self/fd').iterdir()))


@pytest.mark.skipif(sys.platform != 'linux', reason='counts what /proc lists')
def test_a_metric_is_handed_to_processes_with_a_few_file_descriptors(tmp_path):
    metric = metric_of(saved(tmp_path, TIMM))
    expected, strides = metric(pictures()), {name: tensor.stride() for name, tensor in metric.net.state_dict().items()}
    tensors = len(list(metric.net.parameters())) + len(list(metric.net.buffers()))
    before = open_files()
    first, second = ForkingPickler.dumps(metric), ForkingPickler.dumps(metric)
    assert tensors > 50 and open_files() - before <= 8
    assert torch.equal(metric(pictures()), expected)
    for content in (first, second):
        other = pickle.loads(content)
        assert torch.equal(other(pictures()), expected) and other.score_range == metric.score_range
        assert {name: tensor.stride() for name, tensor in other.net.state_dict().items()} == strides
        assert not any(parameter.requires_grad for parameter in other.net.parameters())
    addresses = {tensor.untyped_storage().data_ptr() for tensor in [*metric.net.parameters(), *metric.net.buffers()]}
    assert len(addresses) == 1  # moved once
    metric.net.load_state_dict(random_rali(CLIP, seed=4).state_dict())
    assert torch.equal(pickle.loads(ForkingPickler.dumps(metric))(pictures()), metric(pictures()))


@pytest.mark.slow
@pytest.mark.parametrize('method', multiprocessing.get_all_start_methods())
def test_metrics_score_in_other_processes(method, tmp_path, reasoning):
    images = pictures(2, (40, 40))
    for metric in (metric_of(saved(tmp_path, TIMM)), pyiqa.create_metric(
            'rali-reasoning', device='cpu', pretrained_model_path=reasoning, max_new_tokens=6)):
        expected = metric(images)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert torch.equal(pool.apply(metric, (images,)), expected)


def test_pyiqas_own_trainer_trains_a_checkpoint_that_is_trainable(tmp_path):
    from pyiqa.models.general_iqa_model import GeneralIQAModel
    network = {'type': 'RALI', 'pretrained_model_path': str(saved(tmp_path, TIMM)), 'trainable': True}
    model = GeneralIQAModel({
        'num_gpu': 0, 'dist': False, 'is_train': True, 'path': {}, 'network': network, 'val': {'metrics': {}},
        'train': {'mos_loss_opt': {'type': 'MSELoss', 'loss_weight': 1.0}, 'optim': {'type': 'Adam', 'lr': 1e-3},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [10]}}})
    before = copy.deepcopy(model.net.state_dict())
    model.feed_data({'img': pictures(4), 'mos_label': torch.tensor([[1.0], [2.0], [4.0], [5.0]])})
    losses = []
    for step in range(6):
        model.optimize_parameters(step)
        losses.append(model.log_dict['l_mos'])
    assert losses[-1] < losses[0]
    changed = {name for name, tensor in model.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {'scorer.basis_scores', 'image_encoder.backbone.features.conv_stem.weight',
            'image_encoder.backbone.features.bn1.running_mean'} <= changed
