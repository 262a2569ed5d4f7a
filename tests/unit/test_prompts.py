"""Alignment of generated pictures with their prompts: the formula, its fit, checkpoints, tables, and what is refused."""

import csv
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr

from pyiqa_rali import api
from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.prompted import GivenPrompts, PromptFile, prompted
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.evaluation.options import evaluate_options
from pyiqa_rali.model import checkpoint as checkpoint_format
from pyiqa_rali.model.basis_scorer import BasisScorer, scorer_digest
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint, save_pth
from pyiqa_rali.model.checkpoint_bank import with_bank
from pyiqa_rali.model.checkpoint_prompts import with_prompts
from pyiqa_rali.model.image_encoder import open_clip_model_config
from pyiqa_rali.model.prompt_scorer import PromptScorer
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.text_tower import TextTower, check_text_tower, load_text_tower, save_text_tower, tower_state
from pyiqa_rali.scoring.engine import score_files
from pyiqa_rali.scoring.further import AlignmentColumn
from pyiqa_rali.training.rali.compression import compress
from pyiqa_rali.training.rali.options import CompressOptions, ScoreOptions, train_options
from pyiqa_rali.training.rali.prompts import PromptTable, aligned, fit_prompt_scorer, keep_order
from pyiqa_rali.training.rali.run_checks import check_sections
from tests.tiny import tiny_open_clip_config
from tests.unit.test_explanation import TEXTS
from tests.unit.test_explanation import values as bank_values
from tests.unit.test_rali import open_clip_encoder, random_rali, tensors_of

WIDTH, COMPONENTS, BASIS = 16, 6, 9


def random_scorers(seed=0):
    """A scorer of quality and one of alignment over its basis, both with random weights."""
    torch.manual_seed(seed)
    scorer = BasisScorer(WIDTH, COMPONENTS, BASIS)
    for name, tensor in scorer.state_dict().items():
        if name != 'temperature':
            tensor.copy_(torch.randn(tensor.shape) if name != 'pca_scale' else torch.rand(tensor.shape) + 0.5)
    found = PromptScorer({'scorer': scorer_digest(scorer.state_dict())}, WIDTH, BASIS)
    with torch.no_grad():
        for tensor in found.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.1)
        found.basis_scores[1] += 2
    return scorer.requires_grad_(False), found.requires_grad_(False)


def rows_of(path):
    with open(path, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


# --------------------------------- the formula --------------------------------

def test_alignment_is_the_mean_of_two_sets_of_basis_scores_by_the_agreement():
    scorer, found = random_scorers()
    x, t = torch.randn(5, WIDTH), torch.randn(5, WIDTH)
    z = (x - scorer.pca_mean) / scorer.pca_scale @ scorer.pca_components.T
    w = torch.softmax(F.normalize(z, dim=1) @ F.normalize(scorer.basis_vectors, dim=1).T / scorer.temperature, dim=1)
    v = (F.normalize(t, dim=1) - found.text_mean) / found.text_scale @ scorer.pca_components.T
    a = torch.sigmoid(found.agreement_scale * (F.normalize(z, dim=1) * F.normalize(v, dim=1)).sum(1) + found.agreement_bias)
    expected = (1 - a) * (w @ found.basis_scores[0]) + a * (w @ found.basis_scores[1])
    alignment, agreement = found(scorer, x, t)
    assert alignment.shape == agreement.shape == (5, 1)
    assert torch.allclose(alignment.squeeze(1), expected, atol=1e-5) and torch.allclose(agreement.squeeze(1), a, atol=1e-6)
    low, high = found.basis_scores.min(), found.basis_scores.max()
    assert ((alignment >= low) & (alignment <= high)).all()
    assert torch.allclose(found(scorer, x, 7 * t)[0], alignment, atol=1e-5)  # directions alone count


def test_a_picture_never_gains_by_a_prompt_that_agrees_less():
    scorer, found = random_scorers(1)
    with torch.no_grad():
        found.basis_scores.normal_()
        found.agreement_scale.fill_(-1)
    before = found.basis_scores.clone()
    keep_order(found)
    assert found.agreement_scale == 0 and (found.basis_scores[0] <= found.basis_scores[1]).all()
    right = before[0] <= before[1]
    assert torch.equal(found.basis_scores[:, right], before[:, right])
    assert torch.allclose(found.basis_scores[:, ~right], before[:, ~right].mean(dim=0).expand(2, -1))
    found.agreement_scale.fill_(3)
    x, t = torch.randn(1, WIDTH).expand(200, -1), torch.randn(200, WIDTH)
    alignment, agreement = found(scorer, x, t)
    rising = alignment[agreement.squeeze(1).argsort()].squeeze(1)
    assert (rising.diff() >= -1e-6).all() and rising[-1] > rising[0]


def test_basis_scores_of_another_basis_are_refused():
    scorer, found = random_scorers()
    with torch.no_grad():
        scorer.basis_vectors[0, 0] += 1
    with pytest.raises(CheckpointError, match='no alignment: the basis has changed'):
        found(scorer, torch.randn(1, WIDTH), torch.randn(1, WIDTH))


# ----------------------------------- the fit ----------------------------------

def scorer_of(images):
    """A scorer of a quality that has nothing to do with prompts, as stage 2 makes it."""
    quality = torch.sigmoid(images[:, 0])
    found = compress(images.numpy(), quality.numpy(), CompressOptions(num_basis=BASIS, pca_dim=14, num_buckets=4), 0)
    scorer = BasisScorer(WIDTH, 14, BASIS)
    scorer.load_state_dict({'temperature': torch.tensor(0.2), **{name: torch.from_numpy(getattr(found, name)) for name in (
        'pca_mean', 'pca_scale', 'pca_components', 'basis_vectors', 'basis_scores')}})
    return scorer.requires_grad_(False)


def made_up(count, seed):
    """Features of pictures and prompts, of which half agree: their directions are alike beside what all prompts share."""
    generator = torch.Generator().manual_seed(seed)
    images, others = (torch.randn(count, WIDTH, generator=generator) for _ in range(2))
    right = torch.arange(count) % 2 == 0
    texts = torch.where(right[:, None], images, others) + 0.3 * torch.randn(count, WIDTH, generator=generator) + 4.0
    label = torch.where(right, 0.9, 0.2) + 0.02 * torch.randn(count, generator=generator)
    return images, PromptTable(texts, label, label.double(), [str(number) for number in range(count)])


def test_agreement_is_learned_over_a_basis_that_stays_as_it_is(tmp_path):
    images, train = made_up(300, 1)
    scorer, (others, held) = scorer_of(images), made_up(200, 2)
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}

    def validate(candidate):
        labels = aligned(scorer, candidate, others, held.text_features)
        return {'srcc': spearmanr(labels, held.mos_label)[0], 'key': spearmanr(labels, held.mos_label)[0]}

    options = ScoreOptions(total_epochs=20, batch_size=64, lr=1e-2)
    found, best = fit_prompt_scorer(scorer, images, train, options, 0, validate, tmp_path / 'log.csv')
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.state_dict().items())
    assert best['srcc'] > 0.7 and validate(found) == best  # of two kinds of pairs, at most about .87
    assert abs(spearmanr(scorer(others).squeeze(1), held.mos_label)[0]) < 0.2
    swapped = aligned(scorer, found, others, held.text_features.roll(1, 0))
    right = torch.arange(200) % 2 == 0
    assert (swapped < aligned(scorer, found, others, held.text_features))[right].float().mean() > 0.9
    rows = rows_of(tmp_path / 'log.csv')
    assert len(rows) == 21 and float(rows[-1]['loss']) < 0.5 * float(rows[1]['loss'])
    same, _ = fit_prompt_scorer(scorer, images, train, options, 0, validate, tmp_path / 'again.csv')
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_without_fine_tuning_basis_scores_are_means_of_labels(tmp_path):
    images, train = made_up(60, 1)
    scorer = scorer_of(images)
    found, values = fit_prompt_scorer(scorer, images, train, ScoreOptions(fine_tune=False), 0, lambda _: {'key': 0.0},
                                      tmp_path / 'log.csv')
    assert values == {'key': 0.0}
    assert found.basis_scores.min() >= train.mos_label.min() and found.basis_scores.max() <= train.mos_label.max()
    assert (found.basis_scores[1] - found.basis_scores[0]).mean() > 0.2
    cosine = found.cosine(scorer, scorer.compress(images), train.text_features)
    assert (found.agreement_scale * cosine + found.agreement_bias).std() == pytest.approx(2, rel=1e-3)


def test_prompts_that_are_all_the_same_teach_nothing(tmp_path):
    images, train = made_up(20, 1)
    scorer = scorer_of(images)
    same = replace(train, text_features=train.text_features[:1].expand(20, -1))
    with pytest.raises(DataError, match='prompt_column: all prompts of the training pictures are the same'):
        fit_prompt_scorer(scorer, images, same, ScoreOptions(), 0, lambda _: {'key': 0.0}, tmp_path / 'log.csv')


# --------------------------------- text towers --------------------------------

@pytest.mark.parametrize('sigmoid', [False, True])
def test_a_text_tower_computes_what_open_clips_model_does(tmp_path, sigmoid):
    import open_clip
    name = tiny_open_clip_config(tmp_path, sigmoid)
    model = open_clip.create_model(name).eval()
    save_text_tower(tmp_path / 'tower.safetensors', name, open_clip_model_config(name), tower_state(model))
    tower, texts = load_text_tower(tmp_path / 'tower.safetensors'), ['a red disc', 'a blue square on a table', 'sharp']
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(name)(texts))
        assert torch.allclose(tower(texts), expected, atol=1e-6) and tower(['x'] * 70).shape == (70, 16)
    assert tower.count_long(['short', 'word ' * 40, 'word ' * 40]) == 1
    half = tmp_path / 'half.safetensors'
    save_text_tower(half, name, open_clip_model_config(name), tower_state(model), half=True)
    assert half.stat().st_size < 0.6 * (tmp_path / 'tower.safetensors').stat().st_size
    with torch.no_grad():
        assert 0 < (load_text_tower(half)(texts) - expected).abs().max() < 0.01
    with pytest.raises(CheckpointError, match='stage 1 was run without "aspects"'):
        load_text_tower(tmp_path / 'nowhere.safetensors')


def test_a_tower_needs_no_model_that_open_clip_still_knows(tmp_path):
    config = open_clip_model_config(tiny_open_clip_config(tmp_path))
    assert TextTower('forgotten', config)(['a red disc']).shape == (1, 16)


@pytest.mark.parametrize(('config', 'message'), [
    (None, '"tiny" has no text tower'), ({'embed_dim': 16, 'vision_cfg': {}}, '"tiny" has no text tower'),
    ({'text_cfg': {'hf_model_name': 'roberta-base'}}, "not open_clip's own"),
    ({'text_cfg': {'width': 16}, 'multimodal_cfg': {}}, "not open_clip's own")])
def test_towers_that_a_checkpoint_cannot_keep(config, message):
    with pytest.raises(OptionError, match=f'{message}.*Choose a CLIP or SigLIP'):
        check_text_tower('tiny', config)


# --------------------------------- checkpoints --------------------------------

def save_prompted(path, folder, save=save_checkpoint, seed=0):
    """Write a checkpoint with an alignment, both with random weights."""
    encoder = open_clip_encoder(folder / 'config')
    net = random_rali(encoder, pca_dim=COMPONENTS, num_basis=BASIS, seed=seed)
    torch.manual_seed(seed)
    found = PromptScorer({}, WIDTH, BASIS)
    with torch.no_grad():
        for tensor in found.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.1)
        found.basis_scores[1] += 3
        found.agreement_scale.fill_(5)
    tower = TextTower(encoder['name'], open_clip_model_config(encoder['name']))
    save(path, *with_prompts(tensors_of(net), net.metadata, found.state_dict(), tower.state_dict(),
                             {'mos_range': [0, 5], 'lower_better': False, 'learned_from': ['made up']}))
    return net


@pytest.mark.parametrize(('name', 'save'), [('rali.safetensors', save_checkpoint), ('rali.pth', save_pth)])
def test_a_checkpoint_keeps_its_alignment(tmp_path, name, save):
    plain, images = save_prompted(tmp_path / name, tmp_path, save), torch.rand(3, 3, 40, 48)
    net = RALI(pretrained_model_path=str(tmp_path / name))
    prompts = ['a red disc', 'a blue square', 'a red disc']
    found = net.score_with_prompts(images, prompts)
    assert net.metadata['format_version'] == 5 and found.alignment.shape == found.agreement.shape == (3, 1)
    with torch.no_grad():
        assert torch.allclose(net(images), plain(images), atol=1e-5) and torch.equal(found.quality, net(images))
        text = net.text_tower(prompts)
        assert torch.allclose(found.alignment, net.prompts(net.scorer, net.image_encoder(images), text)[0], atol=1e-5)
    other = net.score_with_prompts(images, prompts[1:] + prompts[:1])
    assert torch.equal(other.quality, found.quality) and not torch.allclose(other.alignment, found.alignment)
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / 'p.png')
    assert net.score_with_prompts(tmp_path / 'p.png', 'a black picture').alignment.shape == (1, 1)
    again = RALI(pretrained=False, image_encoder=open_clip_encoder(tmp_path / 'config'), pca_dim=3, num_basis=4,
                 mos_range=[1, 5], lower_better=False)
    again.load_state_dict(net.state_dict())
    assert torch.allclose(again.score_with_prompts(images, prompts).alignment, found.alignment, atol=1e-6)
    again.load_state_dict(plain.state_dict())
    assert again.prompts is None and again.text_tower is None


def test_earlier_versions_refuse_such_files_by_their_format(tmp_path, monkeypatch):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    monkeypatch.setattr(checkpoint_format, 'NEWEST_FORMAT', 4)
    with pytest.raises(CheckpointError, match='format_version 5 is newer than the 4 .* Upgrade pyiqa-rali'):
        load_checkpoint(tmp_path / 'rali.safetensors')


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors, metadata: metadata.pop('prompts'), 'lacks "prompts" in its metadata'),
    (lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if name.startswith('prompts.')],
     'lacks its tensors'),
    (lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if name.startswith('text_tower.')],
     'lacks its text tower'),
    (lambda tensors, metadata: metadata['prompts'].pop('mos_range'), 'lacks mos_range'),
    (lambda tensors, metadata: tensors.pop('prompts.text_mean'), r'prompts.text_mean is missing; it must be \(16,\)'),
    (lambda tensors, metadata: tensors.update({'prompts.basis_scores': torch.zeros(2, 3)}), r'basis_scores has shape \(2, 3\)'),
    (lambda tensors, metadata: tensors['prompts.text_scale'].fill_(float('nan')), 'values that are not finite'),
])
def test_an_alignment_that_does_not_fit_is_refused(tmp_path, change, message):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    tensors, metadata = load_checkpoint(tmp_path / 'rali.safetensors')
    change(tensors, metadata)
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / 'broken.safetensors', tensors, metadata)


def test_prompts_are_never_guessed(tmp_path):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    net, images = RALI(pretrained_model_path=str(tmp_path / 'rali.safetensors')), torch.rand(2, 3, 40, 40)
    for prompts, message in ((['one'], '1 for 2 pictures'), ('one', '1 for 2 pictures'), (['one', ' '], 'number 1 is no text'),
                             ([None, 'two'], 'number 0 is no text'), (None, 'NoneType must be a list of texts'),
                             ({'one': 1, 'two': 2}, 'dict must be a list of texts')):
        with pytest.raises(OptionError, match=f'prompts: {message}'):
            net.score_with_prompts(images, prompts)
    with pytest.raises(CheckpointError, match='has no alignment with prompts.*options/agiqa3k.yml'):
        random_rali().score_with_prompts(images, ['one', 'two'])


def test_double_precision_and_batches_without_a_picture(tmp_path):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    net, image = RALI(pretrained_model_path=str(tmp_path / 'rali.safetensors')), torch.rand(1, 3, 64, 64)
    expected = net.score_with_prompts(image, 'a red disc')
    assert net(torch.rand(0, 3, 64, 64)).shape == (0, 1)
    found = net.double().score_with_prompts(image.double(), 'a red disc')
    assert torch.allclose(found.alignment, expected.alignment, atol=1e-4)


def test_a_prompt_that_loses_its_end_is_told(tmp_path):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    net, image = RALI(pretrained_model_path=str(tmp_path / 'rali.safetensors')), torch.rand(1, 3, 40, 40)
    with pytest.warns(UserWarning, match='longer than the 24 tokens of the text tower lose their end'):
        long = net.score_with_prompts(image, 'red ' * 22 + 'disc')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.allclose(net.score_with_prompts(image, 'red ' * 22).alignment, long.alignment, atol=1e-5)


def test_an_adapted_basis_loses_the_alignment(tmp_path, capsys):
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{number}.png')
    assert main(['adapt', str(tmp_path / 'rali.safetensors'), '--images', str(tmp_path), '--out',
                 str(tmp_path / 'new.safetensors')]) == 0
    assert 'alignment with prompts is left out' in capsys.readouterr().out
    assert RALI(pretrained_model_path=str(tmp_path / 'new.safetensors')).prompts is None


# ------------------------------------ tables ----------------------------------

ROWS = [('a.png', 4.0, 1.5, 'a red disc'), ('b.png', 2.0, 4.5, 'a "blue" square, large'), ('c.png', 1.0, 3.0, 'a tree')]


def generated(folder, rows=ROWS, columns=('name', 'mos_quality', 'mos_align', 'prompt'), **changes):
    """Write pictures and a table of them; return the section of the data set."""
    for number, (name, *_) in enumerate(rows):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(folder / name)
    with open(folder / 'meta.csv', 'w', newline='', encoding='utf-8') as stream:
        csv.writer(stream).writerows([columns, *rows])
    values = {'name': 'made', 'type': 'GeneralNRDataset', 'dataroot_target': str(folder), 'mos_range': [0, 5],
              'meta_info_file': str(folder / 'meta.csv'), 'lower_better': False, 'prompt_column': 'prompt',
              'aspects': {'quality': 'mos_quality', 'alignment': 'mos_align'}, **changes}
    return {name: value for name, value in values.items() if value is not None}


def read(values, section='test'):
    return prompted(build_table(section, values, 0), dataset_section(section, values))


@pytest.mark.parametrize('layout', ['table', 'manifest'])
def test_both_aspects_and_prompts_are_read(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    manifest = {'type': 'ManifestNRDataset', 'format': 'agiqa3k', 'dataroot_target': './'} if layout == 'manifest' else {}
    values = generated(tmp_path, **manifest)
    table, found = build_table('test', values, 0), read(values)
    assert [mos for _, mos in table.images_and_mos()] == [4.0, 2.0, 1.0]
    assert found.prompts == [prompt for *_, prompt in ROWS] and found.mos.tolist() == [1.5, 4.5, 3.0]
    assert found.mos_label.tolist() == pytest.approx([0.3, 0.9, 0.6])
    plain = {name: value for name, value in values.items() if name not in ('aspects', 'prompt_column')}
    assert read({**plain, **({'mos_column': 'mos_quality'} if manifest else {})}) is None


def test_a_scale_on_which_low_is_good_is_turned(tmp_path):
    assert read(generated(tmp_path, lower_better=True)).mos_label.tolist() == pytest.approx([0.7, 0.1, 0.4])


@pytest.mark.parametrize(('changes', 'error', 'message'), [
    ({'prompt_column': None}, OptionError, 'aspects: needs prompt_column beside it'),
    ({'aspects': None}, OptionError, 'prompt_column: needs aspects beside it'),
    ({'aspects': {'quality': 'mos_quality'}}, OptionError, 'aspects: alignment must be given'),
    ({'aspects': {'quality': 'mos_align', 'alignment': 'mos_align'}}, OptionError, 'both are the column "mos_align"'),
    ({'aspects': {'quality': 'mos_align', 'alignment': 'mos_quality'}}, OptionError,
     'quality: "mos_align" is not the column that the MOS are read from, "mos_quality"'),
    ({'aspects': {'quality': 'mos_quality', 'alignment': 'agreement'}}, DataError, 'has no column "agreement"'),
    ({'prompt_column': 'text'}, DataError, 'has no column "text"'),
    ({'mos_range': [0, 4.2]}, DataError, r'aspects: alignment \(mos_align\): 1 of 3 MOS are outside mos_range'),
    ({'rows': [*ROWS[:2], ('c.png', 1.0, 3.0, ' ')]}, DataError,
     '1 of 3 pictures have no prompt in the column "prompt": .*c.png. A prompt is never guessed'),
    ({'rows': [*ROWS[:2], ('c.png', 1.0, 'x', 'a tree')]}, DataError, 'made: .*c.png: "mos_align" is \'x\''),
    ({'type': 'ManifestNRDataset', 'format': 'agiqa3k', 'aspects': {'quality': 'mos_quality', 'alignment': 'mos'}}, OptionError,
     'alignment: "mos" is what this reader calls'),
])
def test_tables_that_cannot_teach_alignment(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read(generated(tmp_path, **changes))


def smallest(datasets, **changes):
    network = {'type': 'RALI', 'image_encoder': {'library': 'open_clip', 'name': 'ViT-B-32'}}
    return train_options({'name': 'run', 'manual_seed': 1, 'datasets': datasets, 'network': network,
                          'align': {'total_iter': 3, 'lr': 1e-3}, 'compress': {'num_basis': 4}, 'score': {}, **changes})


@pytest.mark.parametrize(('changes', 'message'), [
    ({'network': {'image_encoder': {'library': 'timm', 'name': 'test_efficientnet'}},
      'text_encoder': {'library': 'transformers', 'path': 'x'}},
     r'needs an encoder with its own text tower.*\(here timm\).*\(here transformers\)'),
    ({'text_encoder': {'library': 'transformers', 'path': 'x'}}, r'\(here transformers\)'),
    ({'network': {'image_encoder': {'library': 'open_clip', 'name': 'roberta-ViT-B-32'}}},
     "text tower that is not open_clip's own"),
])
def test_encoders_without_a_text_tower_of_their_own_are_refused(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        check_sections(smallest({'train': generated(tmp_path)}, **changes))


def test_alignment_that_nothing_teaches_is_refused(tmp_path):
    values = generated(tmp_path)
    plain = {name: value for name, value in values.items() if name not in ('aspects', 'prompt_column')}
    with pytest.raises(OptionError, match='datasets: val: aspects: alignment has to be learned.*none of train has aspects'):
        check_sections(smallest({'train': plain, 'val': values}))
    assert set(check_sections(smallest({'train': values, 'val': plain}))) == {'train', 'val'}
    with pytest.raises(OptionError, match='datasets: made: aspects: has no effect in an evaluation'):
        evaluate_options({'name': 'e', 'manual_seed': 0, 'datasets': {'made': values}, 'metrics': {'rali-lite': {}}})


# ------------------------------ a column of a table ---------------------------

def test_a_row_stands_for_the_picture_whose_path_ends_with_its_name(tmp_path):
    (tmp_path / 'p.csv').write_text('image;Prompt\na.png;one\nx/b.png;two\nb.png;three\n"s.tar::m.png";"four; or ""more"""\n')
    found = PromptFile(tmp_path / 'p.csv')
    assert [found.prompt_of(name) for name in ('/data/a.png', '/x/b.png', 'y/b.png', '/z/s.tar::m.png')] == [
        'one', 'two', 'three', 'four; or "more"']
    assert found.prompt_of('/data/a.png') == 'one'  # again
    for name, message in (('/data/c.png', 'no prompt for it in .*p.csv'), ('/data/xa.png', 'no prompt for it'),
                          ('/other/a.png', '"a.png" in .*p.csv is also the name of /data/a.png')):
        with pytest.raises(DataError, match=message):
            found.prompt_of(name)


@pytest.mark.parametrize(('text', 'message'), [
    ('image,text\na.png,one\n', 'has the columns image, text; names of pictures in the first one and a column "prompt"'),
    ('prompt,image\none,a.png\n', 'a column "prompt" are expected'),
    ('image,prompt\na.png,one\nb.png,\n', 'line 3: has no prompt. A prompt is never guessed'),
    ('image,prompt\n,one\n', 'line 2: has no name of a picture'),
    ('image,prompt\na.png,one\n./a.png,two\n', 'line 3: ./a.png has another prompt in an earlier row'),
])
def test_tables_of_prompts_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / 'p.csv').write_text(text)
    with pytest.raises(DataError, match=message):
        PromptFile(tmp_path / 'p.csv')


@pytest.fixture
def metric(tmp_path):
    """A metric with an alignment, and the paths of three pictures of two sizes."""
    import pyiqa
    save_prompted(tmp_path / 'rali.safetensors', tmp_path)
    for name, size in (('a.png', 32), ('b.png', 48), ('c.png', 32)):
        pixels = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    made = pyiqa.create_metric('rali', device=torch.device('cpu'), pretrained_model_path=str(tmp_path / 'rali.safetensors'))
    return made, [str(tmp_path / name) for name in ('a.png', 'b.png', 'c.png')]


@pytest.mark.parametrize('workers', [0, 1])
def test_each_picture_is_scored_with_its_own_prompt(metric, workers):
    made, paths = metric

    def scored_with(prompts):
        column = AlignmentColumn(GivenPrompts(prompts), made, 'rali')
        return [row for window in score_files(paths, made, 3, workers, further=[column]) for row in window]

    prompts = dict(zip(paths, ['a red disc', 'a tree', 'a blue square'], strict=True))
    expected = [made.net.score_with_prompts(path, prompt).alignment.item() for path, prompt in prompts.items()]
    rows = scored_with(prompts)
    assert [row.further['alignment'] for row in rows] == pytest.approx(expected, abs=1e-5) and np.ptp(expected) > 1e-4
    del prompts[paths[1]]
    rows = scored_with(prompts)
    assert [row.further.get('alignment') for row in rows] == [pytest.approx(expected[0], abs=1e-5), None,
                                                              pytest.approx(expected[2], abs=1e-5)]
    assert rows[1].score is None and rows[1].error.endswith('it has no prompt')


def test_prompts_in_python(metric):
    made, paths = metric
    prompts = ['a red disc', 'a tree', 'a blue square']
    found = api.score(paths, made, image_prompts=prompts)
    by_name = api.score(paths, made, image_prompts=dict(zip(paths, prompts, strict=True)))
    rows = found.rows()
    assert [row['alignment'] for row in rows] == [row['alignment'] for row in by_name.rows()]
    assert rows[1]['alignment'] == pytest.approx(made.net.score_with_prompts(paths[1], 'a tree').alignment.item(), abs=1e-5)
    assert re.search(' alignment=[0-9a-f]{8}$', found.metric) and found.metric == by_name.metric
    with pytest.raises(OptionError, match='prompts: 2 for 3 pictures'):
        api.score(paths, made, image_prompts=prompts[:2])
    picture = Image.open(paths[0])
    with pytest.raises(OptionError, match='is given twice, with two prompts'):
        api.score([paths[0], picture, paths[0]], made, image_prompts=prompts)
    with pytest.raises(CheckpointError, match='has no alignment with prompts'):
        api.score(paths, 'rali-lite', image_prompts=prompts)
    with pytest.raises(OptionError, match='"piqe" looks at no prompt'):
        api.score(paths, 'piqe', image_prompts=prompts)


def test_the_command_writes_a_column(metric, tmp_path, capsys):
    made, paths = metric
    weights = str(tmp_path / 'rali.safetensors')
    (tmp_path / 'p.csv').write_text('image,prompt\na.png,a red disc\nb.png,a tree\n')
    assert main(['score', *paths, '--weights', weights, '--prompts', str(tmp_path / 'p.csv'), '--out',
                 str(tmp_path / 's.csv')]) == 1  # one picture has no prompt
    rows = rows_of(tmp_path / 's.csv')
    expected = made.net.score_with_prompts(paths[1], 'a tree').alignment.item()
    assert float(rows[1]['alignment']) == pytest.approx(expected, rel=1e-4)
    assert rows[2]['alignment'] == rows[2]['score'] == '' and 'no prompt for it in' in rows[2]['error']
    assert re.search(' alignment=[0-9a-f]{8}$', rows[0]['metric'])
    arguments = ['score', *paths, '--weights', weights, '--prompts', str(tmp_path / 'p.csv'), '--out', str(tmp_path / 's.csv')]
    assert main([*arguments, '--resume']) == 1
    (tmp_path / 'p.csv').write_text('image,prompt\na.png,a blue disc\nb.png,a tree\n')  # others
    capsys.readouterr()
    assert main([*arguments, '--resume']) == 2 and 'alignment=' in capsys.readouterr().err
    assert rows_of(tmp_path / 's.csv') == rows
    options = tmp_path / 'o.yml'
    section = generated(tmp_path)
    options.write_text(json.dumps({'datasets': {'test': section}}))
    arguments = ['score', '--opt', str(options), '--weights', weights]
    assert main([*arguments, '--prompts', '--out', str(tmp_path / 'd.csv')]) == 0
    rows = rows_of(tmp_path / 'd.csv')
    expected = made.net.score_with_prompts(paths[2], 'a tree').alignment.item()
    assert float(rows[2]['alignment']) == pytest.approx(expected, rel=1e-4)
    capsys.readouterr()
    for command, message in (
            (['score', *paths, '--weights', weights, '--prompts'], '--prompts: give the table of prompts'),
            (['score', *paths, '--prompts', str(tmp_path / 'p.csv')], 'rali-lite: the checkpoint has no alignment'),
            (['score', *paths, '-m', 'rali-lite', '-m', 'piqe', '--prompts', 'p.csv'], 'adds a column for one metric'),
            (['score', *paths, '--engine', 'ray', '--out', str(tmp_path / 'o'), '--prompts', 'p.csv'],
             'not read with --engine ray')):
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert main(['info', weights]) == 0
    shown = capsys.readouterr().out
    assert 'learned from: made up' in shown and 'million in the text tower' in shown


def test_explanations_tell_the_alignment(metric, tmp_path, capsys):
    made, paths = metric
    tensors, metadata = load_checkpoint(tmp_path / 'rali.safetensors')
    features = F.normalize(torch.randn(len(TEXTS), WIDTH), dim=-1).half()
    save_checkpoint(tmp_path / 'bank.safetensors', *with_bank(tensors, metadata, features, bank_values()))
    weights, prompt = str(tmp_path / 'bank.safetensors'), 'a red disc on a wooden table, with many words about it'
    (tmp_path / 'p.csv').write_text(f'image,prompt\na.png,"{prompt}"\n')
    assert main(['explain', *paths[:2], '--weights', weights, '--prompts', str(tmp_path / 'p.csv'), '--out',
                 str(tmp_path / 'figures')]) == 1
    found, told = made.net.score_with_prompts(paths[0], prompt), capsys.readouterr().out
    line = f'  alignment {found.alignment.item():.2f} with its prompt, agreement {found.agreement.item():.2f}\n    "{prompt}"'
    assert line in told and 'error: no prompt for it in' in told and max(map(len, told.split('\n')[1:8])) <= 80
    assert main(['explain', paths[0], '--weights', weights, '--out', str(tmp_path / 'plain')]) == 0
    drawn, plain = (Image.open(tmp_path / name / 'a_explained.png') for name in ('figures', 'plain'))
    assert drawn.size == plain.size and (np.asarray(drawn) != np.asarray(plain)).any()
    assert main(['explain', paths[0], '--weights', weights, '--prompts', str(tmp_path / 'p.csv'), '--json']) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])['aligned'] == {
        'prompt': prompt, 'alignment': pytest.approx(found.alignment.item(), abs=1e-4),
        'agreement': pytest.approx(found.agreement.item(), abs=1e-4)}
    in_python = api.explain(paths[:1], weights=weights, image_prompts=[prompt])
    assert in_python[0].aligned.alignment == pytest.approx(found.alignment.item(), abs=1e-4)
    assert api.explain(paths[:1], weights=weights)[0].aligned is None
    with pytest.raises(CheckpointError, match='has no alignment with prompts'):
        api.explain(paths[:1], image_prompts=[prompt])
