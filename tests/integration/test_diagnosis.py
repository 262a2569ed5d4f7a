"""A diagnosis by training and by `add-diagnosis`, on drawn pictures and photographs of a few pixels."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts, save_reasoning_texts
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali import picture_rows
from pyiqa_rali.training.rali.add_diagnosis import add_diagnosis
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_options

pytestmark = pytest.mark.slow


def drawn_set(folder, phase, samples, seed):
    return {'name': f'drawn_{phase}', 'type': 'SyntheticNRDataset', 'phase': phase, 'dataroot_photos': str(folder),
            'crop_size': 64, 'split_ratios': [0.5, 0.5, 0], 'mos_range': [1, 5], 'lower_better': False,
            'samples_per_epoch': samples, 'seed': seed, 'only': ['jpeg', 'white_noise', 'lens_blur'],
            'composite_probability': 0.2, 'metrics': ['psnr']}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return the folder, the option file and the results of a run with a diagnosis."""
    folder = tmp_path_factory.mktemp('run')
    photos = folder / 'photos'
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        small.resize((96, 72), Image.Resampling.BICUBIC).save(photos / f'{number}.png')
    options = tiny_options(folder, align__freeze_layers=-1, datasets__train__augment=None, align__cache_backbone=True,
                           datasets__train_2=drawn_set(photos, 'train', 60, 1), datasets__val_2=drawn_set(photos, 'val', 24, 2),
                           bank={'num_texts': 20, 'num_candidates': 80}, compress__bucket_by='rank',
                           diagnosis={'strengths': [0.01, 0.1]})
    texts = options['datasets']['train']['reasoning_texts']
    known = load_reasoning_texts(texts)
    for place, items in enumerate(known.values()):
        for item in items:
            object.__setattr__(item, 'distortions', [('darken', 4.0)] if place % 2 else None)
    save_reasoning_texts(texts, known)
    (folder / 'options.yml').write_text(yaml.safe_dump(options))
    return folder, options, train(str(folder / 'options.yml'))


def test_training_leaves_a_checkpoint_that_reads_votes_and_aspects(run):
    _, _, results = run
    report = json.loads((results.folder / 'diagnosis.json').read_text())
    assert report['training_pictures'] == 60 + 14 and report['validation_pictures'] == 24 + 2  # 16 photographs, two left out
    net = RALI(pretrained_model_path=str(results.export))
    assert net.metadata['format_version'] == 3 and net.metadata['diagnosis']['made']['strengths'] == [0.01, 0.1]
    found = net.explain(torch.rand(1, 3, 40, 48))[0]
    assert {vote.distortion for vote in found.votes} == {'jpeg', 'white_noise', 'lens_blur', 'pristine'}
    assert list(found.aspects) == ['focus', 'noise', 'exposure', 'contrast', 'colour', 'compression', 'scaling']
    assert all(0 <= value <= 1 for value in [*found.aspects.values(), *found.faults.values()])


def test_add_diagnosis_gives_the_diagnosis_of_training_without_encoding_again(run, tmp_path, capsys, monkeypatch):
    folder, options, results = run
    tensors, metadata = load_checkpoint(results.export)
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith('diagnosis.')}
    told = {**{key: value for key, value in metadata.items() if key != 'diagnosis'}, 'format_version': 2}
    save_checkpoint(tmp_path / 'plain.safetensors', plain, told)
    monkeypatch.setattr(picture_rows, 'encoded', None)  # what the training kept is enough
    assert main(['add-diagnosis', str(tmp_path / 'plain.safetensors'), '-opt', str(folder / 'options.yml'), '--out',
                 str(tmp_path / 'new.safetensors')]) == 0
    printed = capsys.readouterr().out
    assert 'a diagnosis of 4 classes, fitted on 74 pictures' in printed and 'by the texts alone' in printed
    again, told = load_checkpoint(tmp_path / 'new.safetensors')
    assert again.keys() == tensors.keys() and told['diagnosis']['classes'] == metadata['diagnosis']['classes']
    assert all(torch.allclose(again[name].float(), tensors[name].float(), atol=1e-3) for name in tensors)
    options = copy.deepcopy(options)
    options['datasets']['train']['augment'] = {'hflip': True}  # is for the alignment: a diagnosis reads pictures as they are
    augmented = add_diagnosis(tmp_path / 'plain.safetensors', tmp_path / 'augmented.safetensors', options)
    assert augmented.report['training_pictures'] == 60 + 14
    some = add_diagnosis(tmp_path / 'plain.safetensors', tmp_path / 'some.pth', options, num_pictures=40)
    assert some.report['training_pictures'] == 40 + 14 and some.path.exists() and some.megabytes > 0


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--num-pictures', '0'], '--num-pictures: 0 must be at least 1'),
    (['--force_yml', 'diagnosis:strengths=[0]'], 'strengths'),
    (['-opt', 'nowhere.yml'], 'nowhere.yml is not a file'),
])
def test_what_cannot_be_used_is_refused(run, tmp_path, capsys, arguments, message):
    folder, _, results = run
    given = arguments if '-opt' in arguments else ['-opt', str(folder / 'options.yml'), *arguments]
    assert main(['add-diagnosis', str(results.export), '--out', str(tmp_path / 'new.safetensors'), *given]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'new.safetensors').exists()


def test_pictures_of_which_nothing_is_known_give_no_diagnosis(run, tmp_path):
    _, options, results = run
    table = {name: value for name, value in options['datasets']['train'].items() if name != 'reasoning_texts'}
    with pytest.raises(DataError, match='what is wrong with its pictures is not known'):
        add_diagnosis(results.export, tmp_path / 'new.safetensors', {**options, 'datasets': {'train': table}})
