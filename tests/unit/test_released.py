"""The released layout: all variants of its files, and every tensor accounted for."""

import json

import joblib
import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.checkpoint import load_checkpoint
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.release.released import is_released, read_released
from tests.tiny import tiny_released_folder


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    return tiny_released_folder(tmp_path_factory.mktemp('released'))


@pytest.fixture
def copied(released, tmp_path):
    import shutil
    return shutil.copytree(released, tmp_path / 'copy')


def test_its_metadata(released):
    tensors, metadata = read_released(released)
    assert metadata['temperature'] == pytest.approx(0.07, rel=1e-5)
    assert metadata['mos_range'] == [1, 5]  # the unit of its labels; scores that pass an end are told by a tilde
    basis_scores = tensors['scorer.basis_scores']
    expected = f'{"~" if basis_scores.min() < 1 else ""}1, {"~" if basis_scores.max() > 5 else ""}5'
    assert RALI(pretrained_model_path=released).score_range == expected
    assert is_released(released) and not is_released(released / 'best')
    assert not any('text' in name for name in tensors)


def test_the_conversion_is_made_once(copied, monkeypatch):
    from pyiqa_rali.model.release import conversion
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


def copy_of_tensors(folder):
    """Read a folder whose files are written again afterwards: what is read is mapped from them."""
    return {name: tensor.clone() for name, tensor in read_released(folder)[0].items()}


def without_clip(folder):
    state = torch.load(folder / 'ckpt.pt', weights_only=True)['state_dict']
    kept = {name: tensor for name, tensor in state.items() if not name.startswith('clip.')}
    torch.save({'state_dict': kept}, folder / 'ckpt.pt')


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_weights_in_several_files(copied, suffix):
    from safetensors.torch import load_file, save_file
    expected = copy_of_tensors(copied)
    without_clip(copied)
    weights = load_file(copied / 'best' / 'model.safetensors')
    (copied / 'best' / 'model.safetensors').unlink()
    stem, save = {'safetensors': ('model', save_file), 'bin': ('pytorch_model', torch.save)}[suffix]
    names = sorted(weights)
    weight_map = {name: f'{stem}-0000{1 + index % 2}-of-00002.{suffix}' for index, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save({name: weights[name] for name in names if weight_map[name] == shard}, copied / 'best' / shard)
    index = copied / 'best' / f'{stem}.{suffix}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
    found = read_released(copied)[0]
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    (copied / 'best' / weight_map[names[0]]).unlink()
    with pytest.raises(CheckpointError, match=weight_map[names[0]]):
        read_released(copied)
    index.write_text('{}')
    with pytest.raises(CheckpointError, match=r'index.json: is not an index of weights'):
        read_released(copied)


def test_older_files_hold_numbers_of_positions_too(copied):
    expected = copy_of_tensors(copied)
    content = torch.load(copied / 'ckpt.pt', weights_only=True)
    for tower in ('vision', 'text'):
        content['state_dict'][f'clip.{tower}_model.embeddings.position_ids'] = torch.arange(17)[None]
    torch.save(content, copied / 'ckpt.pt')
    assert read_released(copied)[0].keys() == expected.keys()


def test_half_precision_weights_are_taken_as_they_are(copied):
    content = torch.load(copied / 'ckpt.pt', weights_only=True)
    content['state_dict'] = {name: tensor.half() if name.startswith('clip.') else tensor
                             for name, tensor in content['state_dict'].items()}
    torch.save(content, copied / 'ckpt.pt')
    assert read_released(copied)[0]['image_encoder.backbone.proj'].dtype == torch.float16
    net = RALI(pretrained_model_path=copied)
    assert net.image_encoder.backbone.proj.dtype == torch.float32


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


PROCESSOR = {'size': {'shortest_edge': 32}, 'crop_size': {'height': 32, 'width': 32}, 'resample': 3,
             'image_mean': [0.5, 0.4, 0.3], 'image_std': [0.2, 0.3, 0.4]}


def write_processor(folder, values, name='preprocessor_config.json'):
    (folder / 'best' / 'preprocessor_config.json').unlink(missing_ok=True)
    (folder / 'best' / name).write_text(json.dumps(values))


@pytest.mark.parametrize('values', [
    PROCESSOR, {**PROCESSOR, 'size': 32, 'crop_size': 32}, {**PROCESSOR, 'feature_extractor_type': 'CLIPFeatureExtractor'},
    {**PROCESSOR, 'do_convert_rgb': True, 'do_rescale': True, 'rescale_factor': 0.00392156862745098, 'do_resize': True},
    {**PROCESSOR, 'image_processor_type': 'CLIPImageProcessorFast', 'data_format': 'channels_first', 'device': None}])
@pytest.mark.parametrize('nested', [False, True])
def test_processors_of_all_versions(copied, values, nested):
    if nested:  # as transformers 5 writes a CLIPProcessor
        write_processor(copied, {'image_processor': values, 'processor_class': 'CLIPProcessor'}, 'processor_config.json')
    else:
        write_processor(copied, values)
    found = Preprocessing(**read_released(copied)[1]['image_encoder']['preprocessing'])
    assert found == Preprocessing(image_size=32, resize_size=32, crop_rounding='floor', mean=(0.5, 0.4, 0.3),
                                  std=(0.2, 0.3, 0.4))


def test_a_processor_without_a_crop(copied):
    write_processor(copied, {**PROCESSOR, 'size': {'height': 32, 'width': 32}, 'do_center_crop': False})
    assert read_released(copied)[1]['image_encoder']['preprocessing']['resize_mode'] == 'squash'


@pytest.mark.parametrize(('change', 'message'), [
    ({'do_normalize': False}, 'do_normalize: False is not how CLIP prepares'),
    ({'rescale_factor': 1}, 'rescale_factor 1 is not'), ({'resample': 1}, 'lacks 1, or has a value'),
    ({'do_center_crop': False}, 'without do_center_crop pictures are not square'),
    ({'crop_size': {'height': 32, 'width': 30}}, 'pictures of 30 x 32 pixels are not square'),
    ({'crop_size': 48}, 'gives pictures of 48 pixels, and its encoder takes 32'), ({'image_mean': [0.5]}, 'not three numbers')])
def test_processors_that_are_not_clips_are_refused(copied, change, message):
    write_processor(copied, {**PROCESSOR, **change})
    with pytest.raises(CheckpointError, match=message):
        read_released(copied)


def test_what_config_leaves_out_is_clips_default(copied):
    """transformers leaves a value out that is the default of its class; heads of 2 here are none of them."""
    path = copied / 'best' / 'config.json'
    config = json.loads(path.read_text())
    config['vision_config'] = {name: config['vision_config'][name] for name in (
        'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'image_size', 'patch_size')}
    path.write_text(json.dumps(config))
    assert read_released(copied)[1]['image_encoder']['model_config']['quick_gelu'] is True
    del config['vision_config']['hidden_size']
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r'768'):
        read_released(copied)


@pytest.mark.parametrize(('change', 'message'), [
    ({'model_type': 'siglip'}, 'not the configuration of a CLIPModel'), ({'vision_config': None}, 'vision_config is needed'),
    ({'projection_dim': 20}, r'visual_projection.weight is .*shape \(16, 32\); by .*config.json it must be'),
    ({'vision_config': {'num_hidden_layers': 3}}, 'lacks vision_model.encoder.layers.2'),
    ({'vision_config': {'num_hidden_layers': 1}}, 'holds vision_model.encoder.layers.1'),
    ({'vision_config': {'num_attention_heads': 3}}, '3 heads do not divide'),
    ({'vision_config': {'layer_norm_eps': 1e-6}}, 'layer_norm_eps 1e-06 is not 1e-05'),
    ({'vision_config': {'patch_size': 'x'}}, "patch_size 'x' is not a size")])
def test_a_configuration_that_the_weights_do_not_fit_is_refused(copied, change, message):
    path = copied / 'best' / 'config.json'
    config = json.loads(path.read_text())
    own = change.get('vision_config', {})
    vision = own if own is None else {**config['vision_config'], **own}
    path.write_text(json.dumps({**config, **change, 'vision_config': vision}))
    with pytest.raises(CheckpointError, match=message):
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
