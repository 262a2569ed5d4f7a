"""The released layout, against a reference written from the method's formulas on transformers' own CLIP."""

import json

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.archs.rali import RALI
from pyiqa_rali.checkpoints.format import load_checkpoint
from pyiqa_rali.checkpoints.released import is_released, read_released
from pyiqa_rali.errors import CheckpointError
from tests.tiny import tiny_released_folder


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    return tiny_released_folder(tmp_path_factory.mktemp('released'))


@pytest.fixture
def copied(released, tmp_path):
    import shutil
    return shutil.copytree(released, tmp_path / 'copy')


def pictures():
    rng = np.random.default_rng(3)
    sizes = [(32, 32), (40, 57), (65, 33), (128, 96), (301, 200), (31, 48)]
    y, x = np.mgrid[0:310, 0:310]
    for height, width in sizes:
        waves = 128 + 100 * np.sin(np.stack([x / 9, y / 7, (x + y) / 5], -1))[:height, :width]
        yield Image.fromarray(np.clip(waves + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8))


@torch.no_grad()
def reference_scores(folder, images):
    """8-bit PIL -> CLIPProcessor -> CLIPModel -> scorer, as the release does it, with every file read by its own library."""
    from transformers import CLIPImageProcessor, CLIPModel
    clip = CLIPModel.from_pretrained(folder / 'best').eval()
    processor = CLIPImageProcessor.from_pretrained(folder / 'best')
    state = torch.load(folder / 'ckpt.pt', weights_only=True)['state_dict']
    mean = torch.from_numpy(joblib.load(folder / 'pca.pkl').mean_).float()
    scores = []
    for image in images:
        pixels = processor(images=image, return_tensors='pt')['pixel_values']
        features = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        z = (features - mean) / state['scorer.pca_scale'].abs() @ state['scorer.pca_components'].T
        z = z / z.norm(dim=-1, keepdim=True)
        vectors = state['scorer.prototypes']
        cosine = z @ (vectors / vectors.norm(dim=-1, keepdim=True)).T
        scores.append(torch.softmax(cosine * state['scorer.logit_scale'].clamp(min=1e-6), -1) @ state['scorer.proto_scores'])
    return torch.cat(scores)


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_scores_are_those_of_the_release(tmp_path, activation):
    folder = tiny_released_folder(tmp_path, seed=1, activation=activation)
    net = RALI(pretrained_model_path=folder)
    images = list(pictures())
    with torch.no_grad():
        scores = torch.cat([net(as_tensor(image)).squeeze(1) for image in images])
    expected = reference_scores(folder, images)
    assert expected.std() > 0.05  # the pictures are told apart
    assert (scores - expected).abs().max() < 1e-4 * 4


def test_its_metadata(released):
    tensors, metadata = read_released(released)
    assert metadata['temperature'] == pytest.approx(0.07, rel=1e-5)
    scores = tensors['scorer.basis_scores']
    assert metadata['mos_range'] == [scores.min().item(), scores.max().item()]
    assert is_released(released) and not is_released(released / 'best')
    assert not any('text' in name for name in tensors)


def test_the_conversion_is_made_once(copied, monkeypatch):
    from pyiqa_rali.checkpoints import conversion
    first = conversion.converted(copied)
    monkeypatch.setattr(conversion, 'read_released', lambda folder: pytest.fail('converted twice'))
    assert conversion.converted(copied) == first and load_checkpoint(first)


def test_what_ckpt_lacks_comes_from_the_other_files(copied):
    state = torch.load(copied / 'ckpt.pt', weights_only=True)['state_dict']
    kept = {name: tensor for name, tensor in state.items()
            if not name.startswith('clip.') and name not in ('scorer.prototypes', 'scorer.proto_scores')}
    torch.save({'state_dict': kept}, copied / 'ckpt.pt')
    tensors, _ = read_released(copied)
    with np.load(copied / 'basis.npz') as basis:
        assert np.array_equal(tensors['scorer.basis_vectors'].numpy(), basis['vectors'])
        assert np.array_equal(tensors['scorer.basis_scores'].numpy(), basis['scores'])
    assert torch.equal(tensors['image_encoder.backbone.class_embedding'], state['clip.vision_model.embeddings.class_embedding'])


def test_bin_weights_of_older_transformers(copied):
    from safetensors.torch import load_file
    state = torch.load(copied / 'ckpt.pt', weights_only=True)['state_dict']
    torch.save({'state_dict': {name: tensor for name, tensor in state.items() if not name.startswith('clip.')}},
               copied / 'ckpt.pt')
    weights = load_file(copied / 'best' / 'model.safetensors')
    from_safetensors = read_released(copied)[0]
    torch.save(weights, copied / 'best' / 'pytorch_model.bin')
    (copied / 'best' / 'model.safetensors').unlink()
    from_bin = read_released(copied)[0]
    assert from_bin.keys() == from_safetensors.keys()
    assert all(torch.equal(from_bin[name], from_safetensors[name]) for name in from_bin)


@pytest.mark.parametrize('change, message', [
    (lambda state: state.pop('scorer.pca_scale'), 'lacks scorer.pca_scale'),
    (lambda state: state.pop('clip.visual_projection.weight'), 'visual_projection'),
    (lambda state: state.pop('clip.vision_model.encoder.layers.1.self_attn.k_proj.bias'),
     'lacks vision_model.encoder.layers.1.self_attn.k_proj.bias'),
    (lambda state: state.pop('clip.vision_model.encoder.layers.1.mlp.fc1.bias'),
     'lacks vision_model.encoder.layers.1.mlp.fc1.bias'),
    (lambda state: state.update({'clip.vision_model.encoder.layers.1.extra': torch.zeros(2)}),
     r'ckpt.pt: its CLIP holds vision_model.encoder.layers.1.extra, which .*config.json does not describe'),
    (lambda state: state.update({'clip.vision_model.post_layernorm.bias': torch.zeros(2)}),
     r'vision_model.post_layernorm.bias is torch.float32 of shape \(2,\); by .*must be .* of shape \(32,\)'),
    (lambda state: state.update({'clip.audio_model.weight': torch.zeros(2)}), 'audio_model.weight, which is part of neither'),
    (lambda state: state['scorer.pca_components'].fill_(float('nan')), 'scorer.pca_components has values that are not finite'),
    (lambda state: state['scorer.pca_scale'].zero_(), 'scorer.pca_scale has zeros'),
    (lambda state: state.pop('scorer.proto_scores'), 'holds scorer.prototypes without its counterpart'),
    (lambda state: state.update({'scorer.logit_scale': torch.zeros(3)}), r'logit_scale has shape \(3,\); one number'),
    (lambda state: state.update({'scorer.unknown': torch.zeros(2)}), 'scorer.unknown'),
    (lambda state: state.update({'scorer.proto_scores': torch.zeros(4)}), 'shape'),
])
def test_every_tensor_is_accounted_for(copied, change, message):
    content = torch.load(copied / 'ckpt.pt', weights_only=True)
    change(content['state_dict'])
    torch.save(content, copied / 'ckpt.pt')
    with pytest.raises(CheckpointError, match=message):
        RALI(pretrained_model_path=copied)


@pytest.mark.parametrize('name', ['ckpt.pt', 'pca.pkl', 'best/config.json', 'best/preprocessor_config.json'])
@pytest.mark.parametrize('how', ['missing', 'truncated'])
def test_broken_files_are_named(copied, name, how):
    path = copied / name
    content = path.read_bytes()
    path.unlink()
    if how == 'truncated':
        path.write_bytes(content[:len(content) // 2])
    with pytest.raises(CheckpointError, match=path.name):
        read_released(copied)


def test_a_pca_without_mean_is_refused(copied):
    joblib.dump({'components_': np.zeros(3)}, copied / 'pca.pkl')
    with pytest.raises(CheckpointError, match=r'pca.pkl.*not a fitted estimator'):
        read_released(copied)


def test_a_model_that_is_no_clip_is_refused(copied):
    path = copied / 'best' / 'config.json'
    config = json.loads(path.read_text())
    config['vision_config']['hidden_act'] = 'relu'
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r'hidden_act relu is not quick_gelu or gelu'):
        read_released(copied)
