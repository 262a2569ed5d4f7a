import json

import pytest
import torch

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model.checkpoint import (
    SCORER_TENSORS,
    load_checkpoint,
    load_metadata,
    metadata_to_extra_state,
    save_checkpoint,
    save_pth,
)
from pyiqa_rali.model.rali import RALI
from tests.tiny import tiny_open_clip_config

TIMM = {'library': 'timm', 'name': 'test_efficientnet', 'embed_dim': 12, 'pooling': 'mean_std', 'projection_dim': 20,
        'preprocessing': {'image_size': None, 'resize_mode': 'native'}}


def random_rali(encoder=TIMM, pca_dim=6, num_basis=9, seed=0, mos_range=(1, 5), lower_better=False):
    torch.manual_seed(seed)
    net = RALI(pretrained=False, image_encoder=encoder, pca_dim=pca_dim, num_basis=num_basis, mos_range=mos_range,
               lower_better=lower_better)
    with torch.no_grad():
        for name in ('pca_components', 'basis_vectors', 'basis_scores'):
            getattr(net.scorer, name).normal_()
        net.scorer.basis_scores.copy_(torch.rand(num_basis) * (mos_range[1] - mos_range[0]) + mos_range[0])
    return net


def tensors_of(net):
    return {name: tensor for name, tensor in net.state_dict().items() if name != '_extra_state'}


def open_clip_encoder(folder):
    return {'library': 'open_clip', 'name': tiny_open_clip_config(folder), 'embed_dim': 16,
            'preprocessing': {'image_size': 32}}


@pytest.fixture(params=['timm', 'open_clip'])
def net(request, tmp_path):
    return random_rali(TIMM if request.param == 'timm' else open_clip_encoder(tmp_path))


@pytest.mark.parametrize('size', [(16, 16), (33, 70), (224, 224)])
@pytest.mark.parametrize('channels', [1, 3])
def test_any_size_gives_one_score_a_picture(net, size, channels):
    with torch.no_grad():
        scores = net(torch.rand(2, channels, *size))
    assert scores.shape == (2, 1) and scores.dtype == torch.float32
    assert ((scores >= 1) & (scores <= 5)).all()


def test_a_score_does_not_depend_on_its_batch_or_run(net):
    images = torch.rand(5, 3, 48, 64)
    with torch.no_grad():
        together, again = net(images), net(images)
        alone = torch.cat([net(image.unsqueeze(0)) for image in images])
        moved = net(images.flip(0)).flip(0)
    assert torch.equal(together, again)
    assert (together - alone).abs().max() < 1e-5 and (together - moved).abs().max() < 1e-5


def test_gradients_reach_the_pixels(net):
    images = torch.randn(2, 3, 48, 48, requires_grad=True)
    net(images).sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_pictures_of_other_float_types(net, dtype):
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        assert (net(images.to(dtype)) - net(images)).abs().max() < 0.2


def test_a_checkpoint_comes_back_as_it_was(net, tmp_path):
    metadata = {**net.metadata, 'licence': 'Apache-2.0'}
    save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), metadata)
    images = torch.rand(2, 3, 40, 40)
    for source in (tmp_path / 'rali.safetensors', tmp_path):
        loaded, trainable = (RALI(pretrained_model_path=str(source), trainable=trainable) for trainable in (False, True))
        with torch.no_grad():
            assert torch.equal(trainable(images), net(images)) and (loaded(images) - net(images)).abs().max() < 1e-5
        assert loaded.metadata == json.loads(json.dumps(metadata))
    assert load_metadata(tmp_path)['licence'] == 'Apache-2.0'


def test_load_state_dict_takes_any_export(tmp_path):
    first = random_rali()
    second = random_rali(open_clip_encoder(tmp_path), pca_dim=4, num_basis=5, seed=1, mos_range=(0, 100), lower_better=True)
    save_pth(tmp_path / 'second.pth', tensors_of(second), second.metadata)
    first.load_state_dict(torch.load(tmp_path / 'second.pth')['params'])
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
    assert first.score_range == '0, 100' and first.metadata['lower_better'] is True


@pytest.mark.parametrize('basis_scores, expected', [
    ((1, 2, 3, 5), '1, 5'), ((0.9, 2, 3, 5), '~1, 5'), ((1, 2, 3, 5.1), '1, ~5'), ((-1, 2, 3, 8), '~1, ~5')])
def test_the_range_says_which_ends_a_score_can_pass(basis_scores, expected):
    net = random_rali(num_basis=4, mos_range=(1, 5))
    net.scorer.basis_scores.data = torch.tensor(basis_scores, dtype=torch.float32)
    assert net.score_range == expected


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'pretrained': False}, 'pretrained: False needs image_encoder, pca_dim.*missing: image_encoder'),
    ({'pretrained': False, 'image_encoder': TIMM, 'pca_dim': 4}, 'missing: num_basis, mos_range, lower_better'),
    ({'pretrained': 'rali-lite', 'num_basis': 3}, 'num_basis: is only for pretrained: False'),
    ({'pretrained': False, 'image_encoder': {**TIMM, 'naem': 'x'}, 'pca_dim': 4, 'num_basis': 4, 'mos_range': (1, 5),
      'lower_better': False}, 'unknown key "naem".*Did you mean "name"'),
    ({'pretrained': False, 'image_encoder': {**TIMM, 'library': 'tim'}, 'pca_dim': 4, 'num_basis': 4, 'mos_range': (1, 5),
      'lower_better': False}, 'library: "tim" is not one of.*Did you mean "timm"'),
])
def test_arguments_are_checked(arguments, message):
    with pytest.raises(OptionError, match=message):
        RALI(**arguments)


def test_state_dicts_without_our_metadata_are_refused():
    with pytest.raises(CheckpointError, match='these weights: has no "pyiqa_rali" metadata'):
        random_rali().load_state_dict({'conv.weight': torch.zeros(1)})


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('name', SCORER_TENSORS)
def test_scorers_with_values_that_are_not_finite_are_refused(tmp_path, name, value):
    tensors, metadata = tensors_of(random_rali()), random_rali().metadata
    tensors = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    tensors[f'scorer.{name}'].view(-1)[-1] = value
    path = tmp_path / 'x.pth'
    save_pth(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=f'x.pth: scorer.{name} has values that are not finite'):
        load_checkpoint(path)


def test_state_dicts_that_lack_the_scorer_are_refused():
    net = random_rali()
    with pytest.raises(CheckpointError, match='lacks the tensors scorer.pca_mean'):
        net.load_state_dict({'_extra_state': metadata_to_extra_state(net.metadata)})


def broken_files(folder):
    net = random_rali()
    whole = folder / 'whole.safetensors'
    save_checkpoint(whole, tensors_of(net), net.metadata)
    (folder / 'truncated.safetensors').write_bytes(whole.read_bytes()[:-1000])
    (folder / 'empty.safetensors').write_bytes(b'')
    (folder / 'text.safetensors').write_text('hello')
    (folder / 'text.pth').write_text('hello')
    torch.save({'params': {'a': torch.zeros(1)}}, folder / 'foreign.pth')
    torch.save({'state_dict': {}}, folder / 'other.pth')
    from safetensors.torch import save_file
    save_file({'a': torch.zeros(1)}, folder / 'foreign.safetensors')
    (folder / 'empty_folder').mkdir()


@pytest.mark.parametrize(('name', 'message'), [
    ('truncated.safetensors', 'cannot be read as safetensors'), ('empty.safetensors', 'cannot be read as safetensors'),
    ('text.safetensors', 'cannot be read as safetensors'), ('text.pth', 'cannot be read as a torch file'),
    ('foreign.pth', 'has no "pyiqa_rali" metadata'), ('other.pth', 'holds no "params"'),
    ('foreign.safetensors', 'it is not an export of pyiqa_rali'), ('empty_folder', 'no rali.safetensors in this folder'),
    ('missing.safetensors', 'no such file or folder'),
])
def test_broken_and_foreign_files_are_named(tmp_path, name, message):
    broken_files(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / name)
    assert name in str(caught.value)


def test_tensors_that_do_not_fit_the_encoder_are_refused(tmp_path):
    net = random_rali()
    tensors = tensors_of(net)
    tensors['image_encoder.projection.1.bias'] = torch.zeros(3)
    save_checkpoint(tmp_path / 'rali.safetensors', tensors, net.metadata)
    with pytest.raises(CheckpointError, match='do not fit the encoder that its metadata names'):
        RALI(pretrained_model_path=str(tmp_path))


def test_a_newer_format_is_refused(tmp_path):
    net = random_rali()
    with pytest.raises(CheckpointError, match='format_version 99 is newer than the 5'):
        save_checkpoint(tmp_path / 'rali.safetensors', tensors_of(net), {**net.metadata, 'format_version': 99})


@pytest.mark.parametrize('size', [(40, 48), (300, 400)])  # several pictures at once on a CPU, and one by one
def test_a_picture_scores_the_same_alone_and_in_a_batch(net, size):
    torch.manual_seed(3)
    images = torch.rand(5, 3, *size)
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    with_gradients = net(images).detach()  # the whole batch at once
    assert torch.allclose(together, alone, atol=1e-5) and torch.allclose(together, with_gradients, atol=1e-5)


@pytest.mark.parametrize('strict', [True, False])
def test_weights_that_do_not_fit_leave_the_model_as_it_was(strict):
    net, images = random_rali(seed=1), torch.rand(2, 3, 40, 48)
    before = net(images)
    state = random_rali(seed=2).state_dict()
    del state[next(name for name in state if name.startswith('image_encoder.backbone.') and name.endswith('weight'))]
    with pytest.raises(CheckpointError, match='do not fit'):
        net.load_state_dict(state, strict=strict)
    assert torch.equal(net(images), before)


def test_a_temperature_of_the_images_own_travels_with_the_checkpoint(tmp_path):
    net = random_rali()
    tensors = {**tensors_of(net), 'scorer.temperature_direction': torch.randn(6)}
    metadata = {**net.metadata, 'own_temperature': True, 'format_version': 4}
    for path, save in ((tmp_path / 'rali.safetensors', save_checkpoint), (tmp_path / 'rali.pth', save_pth)):
        save(path, tensors, metadata)
        loaded = RALI(pretrained_model_path=path)
        assert torch.equal(loaded.scorer.temperature_direction, tensors['scorer.temperature_direction'])
    images = torch.rand(2, 3, 40, 48)
    assert not torch.allclose(loaded(images), net(images))
    net.load_state_dict(loaded.state_dict())
    assert torch.allclose(loaded(images), net(images), atol=1e-5)
    with pytest.raises(CheckpointError, match=r'temperature_direction has shape \(5,\)'):
        save_checkpoint(tmp_path / 'bad.safetensors', {**tensors, 'scorer.temperature_direction': torch.zeros(5)}, metadata)


@pytest.mark.parametrize('broken', [float('nan'), float('inf')])
def test_a_picture_with_a_pixel_that_is_no_number_has_no_score_and_the_others_keep_theirs(broken):
    net = RALI('rali-lite')  # its activations, cut off at 0 and 6, turn NaN into numbers
    images = torch.rand(3, 3, 48, 64)
    expected = net(images)
    images[1, 0, 20, 20] = broken
    scores, found = net(images), net.score_with_interval(images)
    for each in (scores, found.low, found.high, net.aspects(images).values, net.quality_map(images).flatten(1)):
        assert each.isnan().flatten(1).all(dim=1).tolist() == [False, True, False]
    assert torch.allclose(scores[[0, 2]], expected[[0, 2]], atol=1e-5)
