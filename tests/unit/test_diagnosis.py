import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.picture_measures.fault_types import ASPECT_OF_FAULTS, TYPES_OF_FAULTS, clearness_of
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint, save_pth
from pyiqa_rali.model.checkpoint_diagnosis import with_diagnosis
from pyiqa_rali.model.diagnosis import Diagnosis, shapes_of
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.text_bank import TextBank
from pyiqa_rali.training.rali.diagnosis import KnownPictures, directions_of, make_diagnosis
from pyiqa_rali.training.rali.options import DiagnosisOptions
from pyiqa_rali.training.rali.readings import fit_faults, fit_levels, fit_shares
from tests.unit.test_explanation import save_with_bank
from tests.unit.test_rali import random_rali

VALUES = {'classes': ['jpeg', 'lens_blur', 'pristine'],
          'faults': {'out of focus': 'focus', 'motion blur': 'focus', 'noise': 'noise'}}


def random_tensors(width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes_of(3, 3, width).items()}
    return {**found, 'feature_scale': found['feature_scale'].abs() + 0.1}


def diagnosis_of(tensors):
    found = Diagnosis(VALUES, tensors['feature_mean'].shape[0])
    found.load_state_dict(tensors)
    return found


def with_random_diagnosis(folder, save=save_checkpoint, name='rali.safetensors'):
    save_with_bank(folder / 'plain.safetensors', random_rali())
    tensors, metadata = load_checkpoint(folder / 'plain.safetensors')
    save(folder / name, *with_diagnosis(tensors, metadata, random_tensors(), VALUES))
    return RALI(pretrained_model_path=str(folder / name))


# ---------------------------------- reading ----------------------------------

def test_readings_are_linear_in_the_standardised_direction():
    tensors, features = random_tensors(), torch.randn(4, 12)
    found = diagnosis_of(tensors)
    inputs = (F.normalize(features, dim=1) - tensors['feature_mean']) / tensors['feature_scale']
    shares, levels = found.vote(features)
    assert torch.allclose(shares, torch.softmax(inputs @ tensors['class_weights'].T + tensors['class_bias'], dim=1), atol=1e-5)
    assert torch.allclose(levels, (inputs @ tensors['level_weights'].T + tensors['level_bias']).clamp(0.5, 5.5), atol=1e-4)
    longer, _ = found.vote(7 * features)  # alignment teaches directions
    assert torch.allclose(shares, longer, atol=1e-4)


def test_an_aspect_is_as_bad_as_its_clearest_fault():
    found = diagnosis_of(random_tensors()).read(torch.randn(5, 12))
    assert found.names == ('focus', 'noise') and found.faults == ('out of focus', 'motion blur', 'noise')
    assert torch.allclose(found.values[:, 0], 1 - found.clearness[:, :2].amax(dim=1))
    assert torch.allclose(found.values[:, 1], 1 - found.clearness[:, 2])
    assert ((found.values >= 0) & (found.values <= 1)).all()
    assert found.of(0) == {'focus': found.values[0, 0].item(), 'noise': found.values[0, 1].item()}
    assert list(found.faults_of(1)) == list(VALUES['faults'])


# --------------------------------- checkpoint --------------------------------

@pytest.mark.parametrize(('name', 'save'), [('rali.safetensors', save_checkpoint), ('rali.pth', save_pth)])
def test_a_checkpoint_keeps_its_diagnosis_and_explains_with_it(tmp_path, name, save):
    net, images = with_random_diagnosis(tmp_path, save, name), torch.rand(2, 3, 40, 48)
    plain = RALI(pretrained_model_path=str(tmp_path / 'plain.safetensors'))
    assert torch.allclose(net(images), plain(images), atol=1e-5) and net.metadata['format_version'] == 3
    explained, before = net.explain(images)[1], plain.explain(images)[1]
    assert {vote.distortion for vote in explained.votes} == set(VALUES['classes'])
    assert {vote.distortion for vote in before.votes} == {'blur', 'noise', 'pristine'} and before.aspects == before.faults == {}
    assert sum(vote.share for vote in explained.votes) == pytest.approx(1, abs=1e-5)
    assert {vote.distortion for vote in explained.votes if vote.level is None} == {'pristine'}
    aspects = net.aspects(images)
    assert explained.aspects == pytest.approx(aspects.of(1), abs=1e-5)
    assert explained.faults == pytest.approx(aspects.faults_of(1), abs=1e-5)
    assert set(json.loads(json.dumps(explained.to_dict()))['aspects']) == {'focus', 'noise'}


def test_load_state_dict_brings_and_takes_the_diagnosis(tmp_path):
    net, other, images = with_random_diagnosis(tmp_path), random_rali(seed=5), torch.rand(1, 3, 40, 48)
    with pytest.raises(CheckpointError, match='has no diagnosis.*add-diagnosis CHECKPOINT -opt FILE'):
        other.aspects(images)
    other.load_state_dict(net.state_dict())
    assert torch.allclose(other.aspects(images).values, net.aspects(images).values, atol=1e-5)
    other.load_state_dict(random_rali(seed=2).state_dict())
    assert other.diagnosis is None


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors, metadata: metadata.pop('diagnosis'), 'lacks "diagnosis" in its metadata'),
    (lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if name.startswith('diagnosis.')],
     'lacks its tensors'),
    (lambda tensors, metadata: tensors.pop('diagnosis.level_bias'), r'level_bias of shape None; .* must be \(3,\)'),
    (lambda tensors, metadata: metadata['diagnosis']['classes'].append('haze'), 'with 4 classes, 3 faults and 12 features'),
    (lambda tensors, metadata: metadata['diagnosis'].pop('faults'), 'its diagnosis lacks faults'),
])
def test_a_diagnosis_that_does_not_fit_is_refused(tmp_path, change, message):
    with_random_diagnosis(tmp_path)
    tensors, metadata = load_checkpoint(tmp_path / 'rali.safetensors')
    change(tensors, metadata)
    with pytest.raises(CheckpointError, match=f'{message}.*add-diagnosis'):
        save_checkpoint(tmp_path / 'broken.safetensors', tensors, metadata)


# ----------------------------------- fitting ---------------------------------

def test_texts_decide_where_there_is_little_evidence():
    torch.manual_seed(0)
    directions = torch.eye(3, 8) * 4
    inputs = torch.cat([torch.eye(3, 8)] * 4) + 0.1 * torch.randn(12, 8)
    wrong = torch.eye(3)[[1, 2, 0] * 4]  # what the pictures say is not what the texts say
    tied, _ = fit_shares(inputs, wrong, directions, 1e4)
    free, bias = fit_shares(inputs, wrong, directions, 1e-4)
    alone, _ = fit_shares(inputs, torch.eye(3)[[0, 1, 2] * 4], directions, float('inf'))
    assert F.cosine_similarity(tied.abs(), directions).min() > 0.99
    assert ((inputs @ free.T + bias).argmax(dim=1) == wrong.argmax(dim=1)).all()
    assert F.cosine_similarity(alone, directions).min() > 0.9999


def test_faults_are_fitted_where_they_are_known_and_by_what_pictures_count():
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    targets = torch.stack([(inputs[:, 0] > 0).float(), (inputs[:, 1] > 0).float()], dim=1)
    targets[100:, 0] = float('nan')
    weights, bias = fit_faults(inputs, targets, torch.ones(200), torch.zeros(2, 6), 1e-2)
    assert ((torch.sigmoid(inputs @ weights.T + bias) > 0.5) == (inputs[:, :2] > 0)).float().mean() > 0.95
    both = torch.cat([targets[:100], 1 - targets[:100]])
    counted = torch.cat([torch.full((100,), 0.9), torch.full((100,), 0.1)])
    weights, bias = fit_faults(torch.cat([inputs[:100]] * 2), both, counted, torch.zeros(2, 6), 1e-2)
    assert ((inputs[:100] @ weights.T + bias > 0) == (targets[:100] > 0)).float().mean() > 0.9


def test_levels_share_what_classes_have_in_common():
    torch.manual_seed(0)
    inputs, kinds = torch.randn(300, 5), torch.arange(300) % 3
    levels = 3 + inputs[:, 0] + torch.tensor([0.0, 0.5, -0.5])[kinds]
    kept = (kinds < 2) | (torch.arange(300) < 12)  # four pictures of the last class
    weights, bias = fit_levels(inputs[kept], kinds[kept], levels[kept], 4, 5e-2)
    found = (inputs * weights[kinds]).sum(dim=1) + bias[kinds]
    assert (found - levels)[kinds < 2].abs().mean() < 0.15 and (found - levels)[kinds == 2].abs().mean() < 0.6
    assert bias[3] == pytest.approx(levels[kept].mean().item(), abs=1e-5)  # a class without pictures


def test_the_closed_form_of_levels_is_the_minimum():
    torch.manual_seed(1)
    inputs, kinds, levels = torch.randn(40, 4), torch.arange(40) % 2, torch.rand(40) * 4 + 1
    weights, bias = fit_levels(inputs, kinds, levels, 2, 0.5)
    shared, own, offset = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((4,), (2, 4), (2,)))
    scale = 0.5 * inputs.double().square().sum(dim=1).mean()
    optimizer = torch.optim.LBFGS([shared, own, offset], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        error = (inputs.double() * (shared + own[kinds])).sum(dim=1) + offset[kinds] + levels.double().mean() - levels.double()
        value = error.square().sum() + scale * (shared.square().sum() + own.square().sum() / 0.1) + offset.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    assert torch.allclose(weights.double(), (shared + own).detach(), atol=1e-4)
    assert torch.allclose(bias.double(), (offset + levels.double().mean()).detach(), atol=1e-4)


def bank_with(features, distortions):
    bank = TextBank({'texts': [f'Text {number}.' for number in range(len(features))], 'distortions': distortions,
                     'temperature': 0.05}, features.shape[1])
    bank.text_features.copy_(features)
    return bank


def test_directions_of_texts_that_name_one_and_several_distortions():
    axes = torch.eye(6)
    features = torch.stack([axes[0] + axes[5], axes[1] + axes[5], axes[0] + axes[1] + axes[5], axes[2] + axes[5], axes[4]])
    bank = bank_with(features, [[('jpeg', 3.0)], [('haze', 2.0)], [('jpeg', 1.0), ('haze', 1.0)], [], None])
    found = directions_of(bank, ['haze', 'jpeg', 'grain', 'pristine'])
    assert found[1].argmax() == 0 and found[0].argmax() == 1 and found[3].argmax() == 2
    assert found[2].abs().sum() == 0 and torch.allclose(found[[0, 1, 3]].norm(dim=1), torch.ones(3), atol=1e-5)


KINDS = ('jpeg', 'lens_blur', 'white_noise', 'darken')


def pictures(count, drawn, seed):
    """Return pictures whose features point where their distortion does, the farther the stronger it is."""
    rng = np.random.default_rng(seed)
    kinds, levels = rng.integers(5, size=count), rng.uniform(1, 5, size=count)
    features = np.zeros((count, 16)) + rng.normal(0, 0.25, (count, 16))
    features[:, 10] += 4
    features[np.arange(count), kinds] += np.where(kinds < 4, 1 + levels, 1)
    pairs = [[(KINDS[kind], float(level))] if kind < 4 else [] for kind, level in zip(kinds, levels, strict=True)]
    if not drawn:
        pairs = [None if place % 3 == 0 else each for place, each in enumerate(pairs)]
    return KnownPictures(torch.from_numpy(features).float(), pairs, np.full(count, drawn))


@pytest.fixture
def bank():
    axes = torch.eye(16)
    return bank_with(torch.stack([axes[number] + axes[12] for number in range(5)]), [*([(kind, 3.0)] for kind in KINDS), []])


def test_a_diagnosis_of_drawn_pictures_and_photographs(bank):
    train = KnownPictures.join([pictures(400, True, 0), pictures(300, False, 1)])
    made = make_diagnosis(train, pictures(150, True, 2), bank, DiagnosisOptions())
    found, fresh = Diagnosis(made.values, 16), pictures(200, True, 3)
    found.load_state_dict(made.tensors)
    assert found.classes == [*sorted(KINDS), 'pristine'] and found.faults == ASPECT_OF_FAULTS
    shares, levels = found.vote(fresh.image_features)
    kinds = [pairs[0][0] if pairs else 'pristine' for pairs in fresh.distortions]
    assert np.mean([found.classes[place] == kind for place, kind in zip(shares.argmax(dim=1), kinds, strict=True)]) > 0.9
    errors = [abs(float(levels[row, found.classes.index(pairs[0][0])]) - pairs[0][1])
              for row, pairs in enumerate(fresh.distortions) if pairs]
    assert np.mean(errors) < 0.6
    aspects = found.read(fresh.image_features)
    noisy, other = (torch.tensor([(kind == 'white_noise') == which for kind in kinds]) for which in (True, False))
    noise = aspects.values[:, aspects.names.index('noise')]
    assert noise[noisy].max() < noise[other].mean()
    assert made.report['accuracy'] > 0.9 and 0 < made.report['texts_accuracy'] <= made.report['accuracy'] + 0.05
    assert made.report['validation_pictures'] == 180 and made.values == json.loads(json.dumps(made.values))


def test_without_validation_pictures_a_tenth_is_left_out(bank):
    made = make_diagnosis(pictures(300, True, 0), None, bank, DiagnosisOptions())
    assert (made.report['training_pictures'], made.report['validation_pictures']) == (270, 30)
    photographs = make_diagnosis(pictures(300, False, 0), None, bank, DiagnosisOptions())  # texts on photographs alone
    assert photographs.report['training_pictures'] == 270 and photographs.report['accuracy'] > 0.8


def test_nothing_known_is_refused(bank):
    unknown = KnownPictures(torch.randn(20, 16), [None] * 20, np.zeros(20, bool))
    with pytest.raises(DataError, match='no training picture has a distortion that is known.*"distortions"'):
        make_diagnosis(unknown, None, bank, DiagnosisOptions())


def test_every_type_of_a_fault_exists_and_none_is_of_two():
    types = [name for own in TYPES_OF_FAULTS.values() for name in own]
    assert set(types) <= set(DISTORTIONS) and len(types) == len(set(types))
    assert clearness_of(None) is None and set(clearness_of([('jitter', 5.0)]).values()) == {0.0}
    assert clearness_of([('lens_blur', 1.5), ('misfocus', 5.5)])['out of focus'] == 1.0


def test_a_diagnosis_needs_a_bank():
    from pyiqa_rali.core.options import read_yaml
    from pyiqa_rali.training.rali.options import train_options
    values = read_yaml('options/rali.yml')
    values.pop('bank', None)
    with pytest.raises(OptionError, match='diagnosis: starts at the texts of a bank'):
        train_options({**values, 'diagnosis': {}})


# ----------------------------- tables and figures ----------------------------

def write_pictures(folder, count=3):
    from PIL import Image
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(folder / f'{number}.png')
    return folder


def test_aspects_are_columns_of_the_table_of_scores(tmp_path, capsys):
    import csv

    import pyiqa_rali
    from pyiqa_rali.__main__ import main
    net, pictures = with_random_diagnosis(tmp_path), write_pictures(tmp_path / 'pictures')
    weights, table = str(tmp_path / 'rali.safetensors'), tmp_path / 'scores.csv'
    assert main(['score', str(pictures), '--weights', weights, '--aspects', '--out', str(table)]) == 0
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == ['image', 'score', 'focus', 'noise', 'error', 'metric'] and len(rows) == 3
    aspects = net.aspects(str(pictures / '1.png')).of(0)
    assert {name: float(rows[1][name]) for name in aspects} == pytest.approx(aspects, abs=1e-4)
    found = pyiqa_rali.score(str(pictures), weights=weights, aspects=True)
    assert found.images[1].further == pytest.approx(aspects, abs=1e-4) and set(aspects) < set(found.rows()[1])
    assert main(['score', str(pictures), '--weights', str(tmp_path / 'plain.safetensors'), '--aspects']) == 2
    assert 'has no diagnosis' in capsys.readouterr().err
    assert main(['score', str(pictures), '-m', 'piqe', '--aspects']) == 2
    assert '--aspects: "piqe" has no aspects' in capsys.readouterr().err


def test_explain_tells_aspects_and_interval_and_draws_all_in_one_picture(tmp_path):
    from types import SimpleNamespace

    from PIL import Image

    from pyiqa_rali.cli.explain import _as_json, _beside, as_text
    from pyiqa_rali.figures.explanations import Beside, draw_explanation
    from pyiqa_rali.model.quality_map import QualityMap
    from pyiqa_rali.scoring.explaining import ExplainedImage, Interval, interval_of
    net, pixels = with_random_diagnosis(tmp_path), np.full((40, 48, 3), 90, np.uint8)
    found = net.explain(torch.rand(1, 3, 40, 48))[0]
    assert interval_of(net, torch.rand(1, 3, 40, 48)) is None
    explained = ExplainedImage('a.png', found, quality_map=QualityMap([[2.0, 3.0], [1.0, 4.0]], (0, 0, 40, 48)),
                               interval=Interval(2.0, 3.5, 0.9, True))
    metric = SimpleNamespace(lower_better=False, score_range='1, 5')
    told = as_text('a.png', found, '', metric, explained.quality_map, explained.interval)
    assert 'interval of 90%: 2.00 to 3.50, unlike the pictures' in told and f'focus {found.aspects["focus"]:.2f}' in told
    assert all(len(line) <= 80 for line in told.splitlines())
    values = json.loads(_as_json(explained))
    assert values['interval'] == {'low': 2.0, 'high': 3.5, 'coverage': 0.9, 'unlike': True} and set(values['faults']) == set(
        VALUES['faults'])
    beside = _beside(explained, pixels)
    assert beside.interval == (2.0, 3.5) and beside.mapped.values.shape == (2, 2) and _beside(
        ExplainedImage('a.png', found), pixels) == Beside()
    draw_explanation(pixels, found, tmp_path / 'all.png', (1, 5), False, beside)
    draw_explanation(pixels, found, tmp_path / 'plain.png', (1, 5), False)
    first, second = (np.asarray(Image.open(tmp_path / name).convert('RGB')) for name in ('all.png', 'plain.png'))
    assert min(first.shape[:2]) > 600 and first.shape == second.shape and (first != second).any()
