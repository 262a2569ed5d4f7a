import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.scoring.sources import ImageSources
from pyiqa_rali.training.rali.adapt import AdaptOptions, adapt, refreshed
from tests.unit.test_basis_scorer import random_scorer
from tests.unit.test_rali import random_rali, tensors_of


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for number in range(18):
        Image.fromarray(rng.integers(0, 60 + 10 * number, (32, 40, 3), dtype=np.uint8)).save(folder / f'{number:02}.png')
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    net = random_rali()
    save_checkpoint(tmp_path / 'old.safetensors', tensors_of(net), net.metadata)
    return tmp_path / 'old.safetensors'


@pytest.mark.parametrize('method', ['means', 'buckets'])
def test_scores_of_the_domain_keep_their_mean_and_deviation(method):
    scorer = random_scorer()
    features = torch.randn(60, 12) + 1
    with torch.no_grad():
        before = scorer(features)
        made = refreshed(scorer, features, AdaptOptions(method, strength=1.0, num_buckets=3))
        after = made(features)
    assert after.mean() == pytest.approx(float(before.mean()), abs=1e-4)
    assert after.std() == pytest.approx(float(before.std()), abs=1e-4)
    assert not torch.allclose(after, before, atol=1e-3) and torch.equal(scorer(features), before)


def test_vectors_move_towards_the_images_that_lean_on_them_and_keep_their_scores_order():
    scorer = random_scorer()
    features = torch.randn(80, 12)
    with torch.no_grad():
        leaning = scorer.weights(scorer.compress(features))
        directions = torch.nn.functional.normalize(scorer.compress(features), dim=1)
        centre = torch.nn.functional.normalize(leaning.T @ directions, dim=1)
        near, far = (refreshed(scorer, features, AdaptOptions(strength=strength)) for strength in (1e6, 0.0))
        old = torch.nn.functional.normalize(scorer.basis_vectors, dim=1)
    assert torch.allclose(near.basis_vectors, old, atol=1e-3)
    assert torch.allclose(far.basis_vectors, centre, atol=1e-5)
    assert torch.equal(far.basis_scores.argsort(), scorer.basis_scores.argsort())


def test_few_images_give_few_vectors():
    made = refreshed(random_scorer(), torch.randn(5, 12), AdaptOptions('buckets'))
    assert made.basis_vectors.shape == (5, 5) and made.basis_scores.shape == (5,)


@pytest.mark.parametrize('method', ['means', 'buckets'])
def test_a_checkpoint_follows_images(checkpoint, images, tmp_path, method):
    found = adapt(checkpoint, ImageSources([str(images)]), tmp_path / 'new.safetensors', AdaptOptions(method, 0.5))
    old, new = (RALI(pretrained_model_path=path) for path in (checkpoint, found.path))
    assert found.images == 18 and not found.unreadable and new.metadata['adapted']['method'] == method
    assert (found.turned is None) == (method == 'buckets') and found.changed > 0
    assert torch.equal(old.image_encoder.projection[1].weight, new.image_encoder.projection[1].weight)
    assert not torch.equal(old.scorer.basis_vectors, new.scorer.basis_vectors)


def test_the_command_counts_what_it_cannot_read(checkpoint, images, tmp_path, capsys):
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    arguments = ['adapt', str(checkpoint), '--out', str(tmp_path / 'new.safetensors'), '--images', str(images)]
    assert main(arguments) == 0
    assert 'a basis that follows 18 images' in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / 'broken.png')]) == 1
    assert 'not readable: ' in capsys.readouterr().out


def test_too_few_images_are_refused(checkpoint, images, tmp_path):
    with pytest.raises(DataError, match='1 can be read; a basis needs 16 at least'):
        adapt(checkpoint, ImageSources([str(images / '00.png')]), tmp_path / 'new.safetensors')


@pytest.mark.parametrize(('values', 'message'), [
    ({'method': 'mean'}, 'Did you mean "means"'), ({'strength': -1}, 'strength: -1 must be'),
    ({'num_buckets': 0}, 'num_buckets: 0 must be')])
def test_wrong_options_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        AdaptOptions(**values)
