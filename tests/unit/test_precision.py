"""The precision of the image encoder, and the CLIP tower that it is made for."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model import precision
from pyiqa_rali.model.checkpoint import save_checkpoint, save_pth
from pyiqa_rali.model.clip_tower import build_clip_tower, is_plain
from pyiqa_rali.model.rali import RALI
from tests.unit.test_rali import TIMM, random_rali, tensors_of

CONFIG = {'embed_dim': 24, 'quick_gelu': True,
          'vision_cfg': {'image_size': 48, 'layers': 3, 'width': 64, 'head_width': 16, 'patch_size': 8, 'mlp_ratio': 3.0}}
ENCODER = {'library': 'open_clip', 'name': 'tiny', 'embed_dim': 24, 'model_config': CONFIG, 'preprocessing': {'image_size': 48}}


@pytest.fixture
def saved(tmp_path):
    net = random_rali(ENCODER)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    return tmp_path / 'rali.safetensors'


def images(count=6):
    return torch.rand(count, 3, 60, 70, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('quick_gelu', [True, False])
def test_the_tower_is_open_clips(quick_gelu):
    from open_clip.model import _build_vision_tower
    config = {**CONFIG, 'quick_gelu': quick_gelu}
    torch.manual_seed(0)
    theirs = _build_vision_tower(config['embed_dim'], config['vision_cfg'], quick_gelu).eval()
    ours = build_clip_tower(config).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(3, 3, 48, 48, requires_grad=True)
    found, expected = ours(pixels), theirs(pixels)
    assert (found - expected).abs().max() < 1e-5
    gradients = [torch.autograd.grad(features.square().sum(), pixels)[0] for features in (found, expected)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-4 * gradients[1].abs().max()
    assert {name: each.shape for name, each in ours.named_parameters()} \
        == {name: each.shape for name, each in theirs.named_parameters()}


def test_variants_of_the_tower_are_left_to_open_clip():
    assert is_plain(CONFIG)
    assert not is_plain({**CONFIG, 'vision_cfg': {**CONFIG['vision_cfg'], 'no_ln_pre': True}})
    assert not is_plain({**CONFIG, 'vision_cfg': {**CONFIG['vision_cfg'], 'layers': [1, 2, 3, 4]}})


@pytest.mark.parametrize('encoder', [ENCODER, TIMM], ids=['clip', 'timm'])
def test_bf16_scores_are_near_those_of_float32(encoder):
    net, half = random_rali(encoder), random_rali(encoder)
    narrow = RALI(pretrained=False, image_encoder=encoder, pca_dim=6, num_basis=9, mos_range=(1, 5), lower_better=False,
                  precision='bf16')
    narrow.load_state_dict(half.state_dict())
    with torch.no_grad():
        expected, found = net.image_encoder(images()), narrow.image_encoder(images())
        score = narrow(images())
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert found.dtype == score.dtype == torch.float32
    assert narrow.scorer.basis_vectors.dtype == narrow.scorer.pca_components.dtype == torch.float32
    assert torch.bfloat16 in {each.dtype for each in narrow.image_encoder.backbone.parameters()}


def test_attention_by_products_is_the_usual_one(saved):
    net = RALI(pretrained_model_path=saved, precision='bf16')
    with_gradient = net(images())
    with torch.no_grad():
        assert (net(images()) - with_gradient).abs().max() < 0.02


def test_a_score_does_not_depend_on_its_batch(saved):
    net = RALI(pretrained_model_path=saved, precision='bf16')
    with torch.no_grad():
        alone = torch.cat([net(image.unsqueeze(0)) for image in images()])
        assert (net(images()) - alone).abs().max() < 1e-2


@pytest.mark.parametrize('kind', ['safetensors', 'pth'])
@pytest.mark.parametrize('name', precision.DTYPES)
def test_weights_are_cast_while_they_are_loaded(saved, tmp_path, name, kind):
    net = random_rali(ENCODER)
    if kind == 'pth':
        save_pth(tmp_path / 'rali.pth', tensors_of(net), net.metadata)
    loaded = RALI(pretrained_model_path=saved if kind == 'safetensors' else tmp_path / 'rali.pth', precision=name)
    dtype = precision.DTYPES[name]
    for key, tensor in tensors_of(net).items():
        found = loaded.state_dict()[key]
        assert not found.is_meta and torch.equal(found.float(), tensor.to(found.dtype).float())
    assert loaded.image_encoder.backbone.transformer.resblocks[1].mlp.c_fc.weight.dtype == dtype


def test_other_weights_keep_the_precision(saved):
    net = RALI(pretrained_model_path=saved, precision='bf16')
    net.load_state_dict(random_rali(TIMM, seed=3).state_dict())
    assert next(net.image_encoder.backbone.parameters()).dtype == torch.bfloat16
    assert net.scorer.basis_scores.dtype == next(net.image_encoder.projection.parameters()).dtype == torch.float32


def test_what_a_precision_cannot_do_is_said(saved, monkeypatch):
    with pytest.raises(OptionError, match='precision: "bf61" is not one of fp32, bf16, fp16. Did you mean "bf16"'):
        RALI(pretrained_model_path=saved, precision='bf61')
    with pytest.raises(OptionError, match='precision: fp16 is for GPUs; on a CPU use fp32, or bf16'):
        RALI(pretrained_model_path=saved, precision='fp16')(images())


@pytest.mark.parametrize('encoder', [ENCODER, TIMM], ids=['clip', 'timm'])
@pytest.mark.parametrize('gpu', [False, True])
def test_bf16_gives_way_to_float32_where_that_is_faster(encoder, gpu, tmp_path, monkeypatch):
    """With a GPU in the machine it is decided at the first score on the CPU, when the weights are rounded already."""
    net = random_rali(encoder)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    expected = RALI(pretrained_model_path=tmp_path)(images())
    monkeypatch.setattr(precision, 'cpu_has_bf16', lambda: False)
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: gpu)
    with pytest.warns(RuntimeWarning, match=r'bf16 is slower than fp32 on this CPU \(it has no units for it\); fp32 is used'):
        slow = RALI(pretrained_model_path=tmp_path, precision='bf16')
        found = slow(images())
    assert torch.equal(found, expected) if not gpu else (found - expected).abs().max() < 0.05
    assert {each.dtype for each in slow.parameters()} == {torch.float32} and slow.precision == 'fp32'
    slow.load_state_dict(net.state_dict())
    assert torch.equal(slow(images()), expected)


@pytest.mark.parametrize(('seconds', 'dtype'), [({'fp32': 1.0, 'bf16': 0.5}, torch.bfloat16), ({'fp32': 1.0, 'bf16': 2.0},
                                                                                              torch.float32)])
@pytest.mark.parametrize('encoder', [ENCODER, TIMM], ids=['clip', 'timm'])
def test_with_units_for_bf16_a_race_decides(encoder, seconds, dtype, tmp_path, monkeypatch):
    net = random_rali(encoder)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), net.metadata)
    monkeypatch.setattr(precision, 'cpu_has_bf16', lambda: True)
    monkeypatch.setattr(precision, 'times', lambda question, ways: [way() for way in ways.values()] and seconds)
    monkeypatch.setattr(precision, 'bf16_speed', lambda: seconds['fp32'] / seconds['bf16'])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = RALI(pretrained_model_path=tmp_path, precision='bf16')
    assert [str(each.message).count('it takes 2.0 times as long') for each in caught] == [1] * (dtype == torch.float32)
    weight = found.image_encoder.backbone.conv1 if encoder is ENCODER else next(found.image_encoder.backbone.parameters())
    assert getattr(weight, 'weight', weight).dtype == dtype


def test_units_are_found_in_what_the_system_says(monkeypatch):
    for capabilities, expected in (({'avx512_bf16': True, 'cpu_name': 'x'}, True), ({'amx_bf16': False, 'avx2': True}, False)):
        precision.cpu_has_bf16.cache_clear()
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda found=capabilities: found, raising=False)
        assert precision.cpu_has_bf16() is expected
    precision.cpu_has_bf16.cache_clear()


@pytest.mark.slow
def test_loading_maps_the_file_and_imports_no_library_of_models(saved):
    """In its own process: what a metric's start imports, and that its weights are those of the file, not copies."""
    code = ('import sys, torch\n'
            'from pyiqa_rali.model.rali import RALI\n'
            f'net = RALI(pretrained_model_path={str(saved)!r})\n'
            'net(torch.rand(1, 3, 48, 48))\n'
            'libraries = ("open_clip", "transformers", "timm", "sklearn", "huggingface_hub")\n'
            'print([name for name in libraries if name in sys.modules])\n'
            f'maps = [line for line in open("/proc/self/maps") if {saved.name!r} in line]\n'
            'print(len(maps))\n')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    imported, maps = result.stdout.splitlines()
    assert imported == '[]'
    if sys.platform == 'linux':
        assert int(maps) > 0


def test_resizing_in_blocks_changes_nothing(monkeypatch):
    from pyiqa_rali.model import pillow, preprocessing
    pictures = torch.rand(2, 3, 301, 407)
    whole = preprocessing.resize(pictures, 48, 64)
    monkeypatch.setattr(pillow, 'VALUES_AT_ONCE', 5000)
    assert torch.equal(preprocessing.resize(pictures, 48, 64), whole)
    assert np.array_equal(pillow.to_8_bits(pictures[0]), (pictures[0] * 255 + 0.5).byte().permute(1, 2, 0).numpy())
