import copy
import json

import pytest
import torch

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model.checkpoint import load_checkpoint, load_metadata, save_checkpoint, save_pth
from pyiqa_rali.model.checkpoint_bank import with_bank
from pyiqa_rali.model.explanation import uncertainty
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.text_bank import TextBank
from tests.tiny import tiny_released_folder
from tests.unit.test_rali import random_rali, tensors_of

TEXTS = ['Strong blur.', 'Weak blur.', 'Noise and strong blur.', 'Nothing is wrong.', 'It is a picture.']
DISTORTIONS = [[('blur', 4.0)], [('blur', 1.0)], [('noise', 2.0), ('blur', 5.0)], [], None]


def values(temperature=0.05):
    return {'texts': TEXTS, 'distortions': DISTORTIONS, 'temperature': temperature}


def save_with_bank(path, net, bank=None, save=save_checkpoint, seed=3):
    features = torch.nn.functional.normalize(torch.randn(len(TEXTS), 12, generator=torch.Generator().manual_seed(seed)), dim=-1)
    tensors, metadata = with_bank(tensors_of(net), net.metadata, features.half(), bank or values())
    save(path, tensors, metadata)
    return features.half()


@pytest.fixture
def net(tmp_path):
    save_with_bank(tmp_path / 'rali.safetensors', random_rali())
    return RALI(pretrained_model_path=str(tmp_path))


def bank_of(features, **changes):
    bank = TextBank({**values(), **changes}, features.shape[1])
    bank.text_features.copy_(features)
    return bank


def test_an_explanation_adds_up(net):
    images = torch.rand(3, 3, 40, 48)
    found = net.explain(images, num_texts=2, num_basis=4)
    scores = net(images).flatten()
    assert len(found) == 3
    for each, score in zip(found, scores.tolist(), strict=True):
        assert each.score == pytest.approx(score, abs=1e-6)
        assert sum(each.weights) == pytest.approx(1, abs=1e-5) and len(each.weights) == 9
        assert sum(weight * basis for weight, basis in zip(each.weights, each.basis_scores, strict=True)) == pytest.approx(
            score, abs=1e-5)
        assert sum(vote.share for vote in each.votes) == pytest.approx(1, abs=1e-5)
        assert [vote.share for vote in each.votes] == sorted((vote.share for vote in each.votes), reverse=True)
        assert [part.weight for part in each.basis] == sorted(each.weights, reverse=True)[:4]
        assert all(each.basis_scores[part.index] == part.basis_score and part.text in TEXTS for part in each.basis)
        assert len(each.texts) == 2 and each.texts[0].cosine >= each.texts[1].cosine >= -1.001
        mean_square = sum(w * f * f for w, f in zip(each.weights, each.basis_scores, strict=True))
        assert each.uncertainty == pytest.approx((mean_square - each.score ** 2) ** 0.5, abs=1e-3)


def test_an_explanation_is_the_same_alone_and_in_a_batch_and_keeps_no_gradient(net):
    images = torch.rand(3, 3, 40, 48, requires_grad=True)
    together = net.explain(images)
    alone = [net.explain(images[row:row + 1])[0] for row in range(3)]
    for first, second in zip(together, alone, strict=True):
        assert first.score == pytest.approx(second.score, abs=1e-5)
        assert first.votes[0].share == pytest.approx(second.votes[0].share, abs=1e-4)
    assert images.grad is None


def test_it_is_json(net):
    found = net.explain(torch.rand(1, 1, 32, 32))[0]
    again = json.loads(json.dumps(found.to_dict()))
    assert again['score'] == found.score and set(again['texts'][0]) == {'text', 'cosine', 'distortions'}


def test_the_image_of_a_text_is_explained_by_that_text():
    bank = bank_of(torch.eye(5))
    cosines = bank.cosines(3 * torch.eye(5))
    shares, levels = bank.vote(cosines)
    assert cosines.argmax(dim=1).tolist() == [0, 1, 2, 3, 4]
    assert bank.classes == ['blur', 'noise', 'pristine']
    assert torch.allclose(shares[:4], torch.tensor([[1., 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]), atol=1e-4)
    assert [levels[row, 0].item() for row in range(3)] == pytest.approx([4, 1, 5], abs=1e-3)
    assert levels[2, 1].item() == pytest.approx(2)
    assert shares[4].sum() == pytest.approx(1)  # a text of which nothing is known has no vote: the others share it


def test_votes_are_a_softmax_over_the_cosines():
    bank = bank_of(torch.eye(5), temperature=1.0)
    shares, levels = bank.vote(torch.tensor([[0.2, 0.1, 0.4, -0.3, 0.9]]))
    weights = torch.softmax(torch.tensor([0.2, 0.1, 0.4, -0.3]), dim=0)
    assert shares[0].tolist() == pytest.approx([float(weights[0] + weights[1] + weights[2] / 2), float(weights[2] / 2),
                                                float(weights[3])])
    blur = (4 * weights[0] + weights[1] + 5 * weights[2] / 2) / (weights[0] + weights[1] + weights[2] / 2)
    assert levels[0, 0].item() == pytest.approx(float(blur))


def test_a_bank_of_texts_alone_has_no_votes(tmp_path):
    save_with_bank(tmp_path / 'rali.safetensors', random_rali(), {**values(), 'distortions': [None] * 5})
    found = RALI(pretrained_model_path=str(tmp_path)).explain(torch.rand(1, 3, 32, 32))[0]
    assert found.votes == [] and len(found.texts) == 3


@pytest.mark.parametrize(('weights', 'expected'), [([1, 0, 0], 0), ([0.5, 0, 0.5], 2), ([0.25, 0.5, 0.25], 2 ** 0.5)])
def test_the_uncertainty_is_the_spread_of_the_basis_scores(weights, expected):
    assert uncertainty(torch.tensor([weights], dtype=torch.float32), torch.tensor([1., 3, 5])).item() == pytest.approx(expected)


@pytest.mark.parametrize(('name', 'save'), [('rali.safetensors', save_checkpoint), ('rali.pth', save_pth)])
def test_a_bank_comes_back_as_it_was_and_scores_stay(tmp_path, name, save):
    plain = random_rali()
    features = save_with_bank(tmp_path / name, plain, save=save)
    tensors, metadata = load_checkpoint(tmp_path / name)
    assert torch.equal(tensors['bank.text_features'], features) and metadata['bank']['texts'] == TEXTS
    loaded = RALI(pretrained_model_path=str(tmp_path / name), trainable=True)  # nothing is folded
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded(images), plain(images))
    assert loaded.bank.distortions == DISTORTIONS and torch.equal(loaded.bank.text_features, features)
    assert copy.deepcopy(loaded).explain(images) == loaded.explain(images)


def test_load_state_dict_brings_and_takes_the_bank(net):
    plain, images = random_rali(seed=1), torch.rand(1, 3, 40, 40)
    expected, = net.explain(images)
    plain.load_state_dict(net.state_dict())
    found, = plain.explain(images)
    assert [text.text for text in found.texts] == [text.text for text in expected.texts]
    assert (found.score, found.uncertainty) == pytest.approx((expected.score, expected.uncertainty), abs=1e-5)
    plain.load_state_dict(random_rali(seed=2).state_dict())
    with pytest.raises(CheckpointError, match='has no text bank'):
        plain.explain(images)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_explain_too(net, dtype):
    images = torch.rand(1, 3, 40, 40)
    first, second = net.explain(images)[0], copy.deepcopy(net).to(dtype).explain(images.to(dtype))[0]
    assert first.score == pytest.approx(second.score, abs=0.3)
    assert sum(vote.share for vote in second.votes) == pytest.approx(1, abs=1e-2)


def test_without_a_bank_it_says_how_to_add_one():
    with pytest.raises(CheckpointError, match='has no text bank.*python -m pyiqa_rali add-bank CHECKPOINT --texts'):
        random_rali().explain(torch.rand(1, 3, 32, 32))


def test_a_file_with_a_bank_has_a_version_that_older_readers_refuse_and_others_keep_theirs(tmp_path):
    save_with_bank(tmp_path / 'with.safetensors', random_rali())
    save_checkpoint(tmp_path / 'without.safetensors', tensors_of(random_rali()), random_rali().metadata)
    assert load_metadata(tmp_path / 'with.safetensors')['format_version'] == 2
    assert load_metadata(tmp_path / 'without.safetensors')['format_version'] == 1


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors, metadata: tensors.pop('bank.text_features'), 'lacks the tensor bank.text_features'),
    (lambda tensors, metadata: metadata.pop('bank'), 'lacks "bank" in its metadata'),
    (lambda tensors, metadata: metadata['bank'].pop('temperature'), 'its text bank lacks temperature'),
    (lambda tensors, metadata: metadata['bank']['texts'].append('more'), r'has shape \(5, 12\); with 6 texts'),
    (lambda tensors, metadata: metadata['bank']['distortions'].pop(), '5 texts, 4 lists of distortions'),
])
def test_a_bank_whose_parts_do_not_fit_is_refused(tmp_path, change, message):
    tensors, metadata = with_bank(tensors_of(random_rali()), random_rali().metadata, torch.zeros(5, 12), values())
    metadata = json.loads(json.dumps(metadata))
    change(tensors, metadata)
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / 'rali.safetensors', tensors, metadata)


def test_texts_of_another_width_are_refused():
    with pytest.raises(CheckpointError, match='gives 7 features and the checkpoint has 12'):
        with_bank(tensors_of(random_rali()), random_rali().metadata, torch.zeros(5, 7), values())


@pytest.mark.parametrize('option', ['num_texts', 'num_basis'])
def test_numbers_below_one_are_refused(net, option):
    with pytest.raises(OptionError, match=f'{option}: 0 must be at least 1'):
        net.explain(torch.rand(1, 3, 32, 32), **{option: 0})
    assert len(net.explain(torch.rand(1, 3, 32, 32), num_texts=99, num_basis=99)[0].basis) == 9


def test_a_clip_checkpoint_with_a_bank_is_loaded_by_pyiqa(tmp_path):
    import pyiqa

    from pyiqa_rali.model.release.released import read_released
    tensors, metadata = read_released(tiny_released_folder(tmp_path / 'released'))
    features = torch.nn.functional.normalize(torch.randn(len(TEXTS), 16), dim=-1).half()
    path = tmp_path / 'with_bank.safetensors'
    save_checkpoint(path, *with_bank(tensors, metadata, features, values()))
    metric = pyiqa.create_metric('rali', pretrained_model_path=str(path), device='cpu')
    found, = metric.net.explain(torch.rand(1, 3, 40, 48))
    assert sum(vote.share for vote in found.votes) == pytest.approx(1, abs=1e-5)
