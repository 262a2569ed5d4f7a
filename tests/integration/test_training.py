"""The three stages at tiny scale: end to end, killed and resumed, and over two processes."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.sections import TableOptions
from pyiqa_rali.data.training_images import record_in
from pyiqa_rali.model.checkpoint import load_checkpoint, load_metadata
from pyiqa_rali.model.encoder_file import load_encoder
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.features import encoded, load_features
from pyiqa_rali.training.rali.options import (
    AlignOptions,
    CompressOptions,
    LoggerOptions,
    PathOptions,
    ScoreOptions,
    TextEncoderOptions,
    TrainOptions,
)
from pyiqa_rali.training.rali.run import train
from tests.tiny import free_port, tiny_open_clip_config, tiny_options

pytestmark = pytest.mark.slow

TENSORS = ('scorer.pca_components', 'scorer.basis_vectors', 'scorer.basis_scores')


def write_options(folder, **changes):
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(tiny_options(folder, **changes)))
    return path


def same_weights(first, second):
    ours, others = load_checkpoint(first)[0], load_checkpoint(second)[0]
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def test_a_run_ends_with_weights_that_pyiqa_scores_with(tmp_path):
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    results = train(str(write_options(tmp_path)))
    run = tmp_path / 'experiments' / 'tiny'
    for name in ('options.yml', 'versions.json', 'align/log.csv', 'compress/report.json', 'score/log.csv', 'results.json',
                 'figures/training_curves.png', 'figures/scatter_val.png', 'figures/images_val.png'):
        assert (run / name).stat().st_size > 0
    assert set(results.best) == {'val/srcc', 'val/plcc', 'val/krcc', 'key'}
    images = torch.rand(3, 3, 40, 48)
    metric = pyiqa.create_metric('rali', pretrained_model_path=str(run / 'models' / 'rali.safetensors'), device='cpu')
    scores = metric(images)
    assert scores.shape == (3, 1) and metric.score_range == '1, 5' and metric.lower_better is False
    assert ((scores >= 1) & (scores <= 5)).all()
    other = pyiqa.create_metric('rali-lite', device='cpu')
    other.load_weights(str(run / 'models' / 'rali.pth'))
    assert torch.equal(other(images), scores)
    assert torch.allclose(metric(images[1:2]), scores[1:2], atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    exports = []
    for name, seed in (('a', 7), ('b', 7), ('c', 8)):
        options = write_options(tmp_path, name=name, manual_seed=seed)
        exports.append(train(str(options)).export)
    assert same_weights(exports[0], exports[1])
    assert not same_weights(exports[0], exports[2])


def test_a_run_is_started_from_options_made_in_python(tmp_path):
    values = tiny_options(tmp_path, name='object', logger__figures=False)
    of_table = {key: value for key, value in values['datasets']['val'].items() if key != 'mos_range'}
    options = TrainOptions(
        name='object', manual_seed=7, num_gpu=0, network=values['network'],
        datasets={'train': TableOptions(**of_table, mos_range=(1, 5), batch_size_per_gpu=4, augment={'hflip': True},
                                        reasoning_texts=values['datasets']['train']['reasoning_texts']),
                  'val': TableOptions(**of_table, mos_range=(1, 5))},
        text_encoder=TextEncoderOptions(**values['text_encoder']), path=PathOptions(experiments_root=tmp_path / 'experiments'),
        align=AlignOptions(**values['align']), compress=CompressOptions(**values['compress']),
        score=ScoreOptions(**values['score']), logger=LoggerOptions(**values['logger']))
    found = train(options)
    assert found.folder == tmp_path / 'experiments' / 'object' and found.export.parent.parent == found.folder
    (tmp_path / 'options.yml').write_text(yaml.safe_dump({**values, 'name': 'file'}))
    of_file = train(tmp_path / 'options.yml')
    assert same_weights(found.export, of_file.export) and found.best == of_file.best
    assert train(found.folder / 'options.yml', auto_resume=True).best == found.best  # the record is an option file
    with pytest.raises(OptionError, match=r'^align: betas: element 2: 1.5 must be in \[0, 1\)'):
        train(dataclasses.replace(options, align=AlignOptions(total_iter=1, lr=1, betas=(0.9, 1.5))))
    with pytest.raises(OptionError, match='the options differ .* in "align": lr: was 0.001, is 0.5'):
        train(options, auto_resume=True, overrides=['align:lr=0.5'])


def run_process(options, *arguments):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.Popen([sys.executable, '-m', 'pyiqa_rali.train', '-opt', str(options), *arguments], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_resumes_to_bit_identical_weights(tmp_path):
    expected = train(str(write_options(tmp_path, name='whole', align__total_iter=40))).export
    options = write_options(tmp_path, name='killed', align__total_iter=40)
    log = tmp_path / 'experiments' / 'killed' / 'align' / 'log.csv'
    process = run_process(options)
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > 6) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (log.parent.parent / 'models').exists()
    resumed = run_process(options, '--auto_resume')
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert re.search(r'^stage 2: \d+ images, ', output, re.M) and '"export": ' in output  # the command prints
    assert same_weights(expected, log.parent.parent / 'models' / 'rali.safetensors')
    steps = [line.split(',')[0] for line in log.read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(40)]


def test_a_resumed_run_refuses_other_options(tmp_path):
    train(str(write_options(tmp_path)))
    with pytest.raises(OptionError, match=r'the options differ .* in "align": lr: was 0.001, is 0.5'):
        train(str(write_options(tmp_path, align__lr=0.5)), auto_resume=True)


def test_a_run_of_the_same_name_is_archived(tmp_path, capfd):
    options = str(write_options(tmp_path))
    capfd.readouterr()
    train(options)
    train(options)
    assert capfd.readouterr() == ('', '')  # and the library prints nothing
    assert len(list((tmp_path / 'experiments').glob('tiny_archived_*'))) == 1


def test_stages_run_one_by_one_to_the_same_result(tmp_path):
    expected = train(str(write_options(tmp_path, name='together'))).export
    for stage in ('align', 'compress', 'score'):
        train(str(write_options(tmp_path, name='apart', stages=[stage])))
    assert same_weights(expected, tmp_path / 'experiments' / 'apart' / 'models' / 'rali.safetensors')


def test_a_later_stage_alone_may_have_other_options_but_not_for_what_it_reads(tmp_path):
    first, second, third = (load_checkpoint(train(str(write_options(tmp_path, **changes))).export)[0] for changes in (
        {}, {'stages': ['score'], 'score__temperature': 0.5}, {'stages': ['compress', 'score'], 'compress__num_basis': 4}))
    assert first['scorer.temperature'] != second['scorer.temperature'] == 0.5
    assert torch.equal(first['scorer.pca_components'], second['scorer.pca_components'])
    assert len(third['scorer.basis_scores']) == 4
    for stages, changes in ((['score'], {'compress__num_basis': 6}), (['compress', 'score'], {'align__lr': 0.5})):
        with pytest.raises(OptionError, match=r'the options differ from those of .*options.yml'):
            train(str(write_options(tmp_path, stages=stages, **changes)))


def test_a_resumed_run_keeps_the_features_that_it_had(tmp_path):
    options = write_options(tmp_path)
    export = Path(train(str(options)).export)
    expected = load_checkpoint(export)[0]
    features = export.parents[1] / 'compress' / 'features_train.safetensors'
    written = features.stat().st_mtime_ns
    (features.parent / 'features_val.safetensors').unlink()
    export.unlink()
    train(str(options), auto_resume=True)
    assert features.stat().st_mtime_ns == written
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_checkpoint(export)[0].items())


def watch_encoding(monkeypatch):
    """Return a list that the name of each table is added to whose pictures pass an encoder."""
    embedded = []

    def watched(encode, preprocessing, table, *rest):
        embedded.append(table.name)
        return encoded(encode, preprocessing, table, *rest)
    for module in ('features', 'picture_rows'):
        monkeypatch.setattr(f'pyiqa_rali.training.rali.{module}.encoded', watched)
    return embedded


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_the_features_of_the_last_zero_shot_validation_are_those_of_stage_2(tmp_path, monkeypatch, dtype):
    embedded = watch_encoding(monkeypatch)
    changes = {'export__dtype': dtype, 'align__prompts': {'high': ['very clear'], 'low': ['very noisy']}}
    options = write_options(tmp_path, name='reused', val__val_freq=3, align__total_iter=4, datasets__val__name='held out',
                            **changes)
    export = train(str(options)).export
    assert embedded == ['held out', 'held out', 'tiny']  # step 3, the end, and the basis
    folder = tmp_path / 'experiments' / 'reused' / 'compress'
    reused = load_features(folder / 'features_val.safetensors')
    (folder / 'features_val.safetensors').unlink()
    export.unlink()
    assert same_weights(train(str(options), auto_resume=True).export, folder.parent / 'models' / 'rali.safetensors')
    again = load_features(folder / 'features_val.safetensors')
    assert embedded[3:] == ['held out']
    assert torch.equal(reused.image_features, again.image_features) and torch.equal(reused.mos, again.mos)
    assert torch.equal(reused.mos_label, again.mos_label) and reused.image_names == again.image_names
    alone = write_options(tmp_path, name='alone', align__total_iter=4, datasets__val__name='held out',
                          **{**changes, 'align__prompts': None})
    assert same_weights(train(str(alone)).export, folder.parent / 'models' / 'rali.safetensors')
    train(str(write_options(tmp_path, name='reused', val__val_freq=3, align__total_iter=4, datasets__val__name='held out',
                            stages=['compress', 'score'], **changes)))
    assert embedded[-2:] == ['tiny', 'held out']  # a stage that is run alone reads nothing but the encoder


def test_several_training_sets_share_batches_and_basis(tmp_path):
    """The same images as one set and as two with other scales of MOS: the same labels, and as many basis images."""
    path = write_options(tmp_path)
    values = yaml.safe_load(Path(path).read_text())
    first = values['datasets']['train']
    table = pd.read_csv(first['meta_info_file'])
    table.iloc[:, 1] = 100 - 25 * (table.iloc[:, 1] - 1)
    table.to_csv(tmp_path / 'second.csv', index=False)
    values['datasets']['train_2'] = {**first, 'name': 'second', 'meta_info_file': str(tmp_path / 'second.csv'),
                                     'mos_range': [0, 100], 'lower_better': True}
    Path(path).write_text(yaml.safe_dump(values))
    export = Path(train(str(path)).export)
    folder = export.parents[1] / 'compress'
    features = [load_features(folder / f'features_{name}.safetensors') for name in ('train', 'train_2')]
    assert torch.allclose(features[0].mos_label, features[1].mos_label, atol=1e-5)
    assert json.loads((folder / 'report.json').read_text())['images'] == 2 * len(features[0].mos_label)
    assert load_metadata(export)['mos_range'] == [1, 5]


@pytest.mark.parametrize('stage', ['compress', 'score'])
def test_a_stage_without_the_one_before_says_so(tmp_path, stage):
    with pytest.raises(CheckpointError, match='does not exist. Run'):
        train(str(write_options(tmp_path, stages=[stage])))


@pytest.mark.parametrize('changes', [
    {'align__total_iter': 0}, {'compress__pca_dim': None}, {'compress__num_buckets': 1}, {'align__texts_per_image': 1},
    {'score__fine_tune': False}, {'score__own_temperature': True},
    {'score__plcc_weight': 0.5, 'score__train_temperature': True},
    {'align__loss': 'sigmoid', 'align__chunk_size': 2}, {'align__freeze_layers': -1}, {'align__layer_decay': 0.8},
    {'text_encoder__train': True, 'text_encoder__split_sentences': True}, {'align__amp': 'bfloat16'},
    {'export__dtype': 'float16'}, {'compress__backend': 'torch'},
])
def test_every_switch_trains(tmp_path, changes):
    results = train(str(write_options(tmp_path, **changes)))
    assert torch.isfinite(torch.tensor(results.best['val/srcc']))


def test_scores_stay_within_the_range_of_the_mos_if_asked(tmp_path):
    """At a high rate basis scores leave the range unless that is refused; then no picture, however odd, has one outside."""
    changes = {'score__lr_scores': 0.5, 'score__total_epochs': 8}
    free, kept = (train(str(write_options(tmp_path, name=str(within), score__within_range=within, **changes))).export
                  for within in (False, True))
    low, high = load_metadata(kept)['mos_range']
    scores = {export: load_checkpoint(export)[0]['scorer.basis_scores'] for export in (free, kept)}
    assert scores[free].min() < low or scores[free].max() > high
    assert scores[kept].min() >= low and scores[kept].max() <= high


@pytest.mark.parametrize('sigmoid', [False, True])
def test_an_open_clip_model_with_its_own_text_tower(tmp_path, sigmoid):
    name = tiny_open_clip_config(tmp_path / 'configs', sigmoid)
    export = train(str(write_options(
        tmp_path, network={'image_encoder': {'library': 'open_clip', 'name': name}}, text_encoder={'train': True},
        align__loss='sigmoid' if sigmoid else 'softmax', align__layer_decay=0.7, align__freeze_layers=1,
        align__prompts={'high': ['very clear'], 'low': ['very noisy']}))).export
    tensors, metadata = load_checkpoint(export)
    assert metadata['image_encoder']['library'] == 'open_clip'
    assert not [tensor for tensor in tensors if 'text' in tensor]
    header = (tmp_path / 'experiments/tiny/align/log.csv').read_text().splitlines()[0]
    assert 'zero_shot/val/srcc' in header


def test_two_processes_train_as_one(tmp_path):
    train(str(write_options(tmp_path, name='one', datasets__train__batch_size_per_gpu=8, align__grad_clip=None)))
    options = write_options(tmp_path, name='two', datasets__train__batch_size_per_gpu=4, align__grad_clip=None)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '',
                   'PYTHONPATH': os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', free_port(), '-m',
               'pyiqa_rali.train', '-opt', str(options), '--launcher', 'pytorch']
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    losses = [[float(line.split(',')[1]) for line in
               (tmp_path / 'experiments' / name / 'align' / 'log.csv').read_text().splitlines()[1:]] for name in ('one', 'two')]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, two = (load_checkpoint(tmp_path / 'experiments' / name / 'models' / 'rali.safetensors')[0] for name in ('one', 'two'))
    for name in one:
        if name.startswith('image_encoder.'):
            assert torch.allclose(one[name].float(), two[name].float(), rtol=1e-3, atol=2e-4), name


@pytest.mark.parametrize(('changes', 'error', 'message'), [
    ({'datasets__train__batch_size_per_gpu': 17}, DataError, 'holds 16 images, fewer than the 17 of one batch'),
    ({'datasets__train__mos_range': None}, OptionError, 'datasets: train: mos_range: must be given'),
    ({'datasets__train__lower_better': None}, OptionError, 'datasets: train: lower_better: must be given'),
    ({'datasets__train__mos_range': [1, 3]}, DataError, 'outside'),
    ({'datasets__train__dataroot_targt': 'x'}, OptionError, 'Did you mean "dataroot_target"'),
    ({'datasets__train__augment': {'hflp': True}}, OptionError, 'Did you mean "hflip"'),
    ({'datasets__train__meta_info_file': 'nowhere.csv'}, DataError, 'nowhere.csv'),
    ({'datasets__valid': {}}, OptionError, '"valid" is not train, basis, val or test'),
    ({'val__key_dataset': 'val_9'}, OptionError, 'key_dataset: "val_9" is not one of val'),
    ({'network__image_encoder__name': 'test_eficientnet'}, OptionError, 'Did you mean "test_efficientnet"'),
    ({'network__image_encoder__embed_dim': 12}, OptionError, 'gives 12 features and the text encoder 16'),
    ({'text_encoder__path': './nowhere'}, OptionError, 'is not a folder'),
    ({'text_encoder__path': 'installed:no_such_package'}, OptionError, 'is not installed'),
    ({'align__freeze_layers': 99}, OptionError, 'freeze_layers: 99 must be -1'),
    ({'compress__num_basis': 17}, OptionError, 'num_basis: 17 is more than the 16 training images'),
    ({'compress__pca_dim': 17, 'compress__num_basis': 8}, OptionError, 'pca_dim: 17 is more than the 16 training images'),
    ({'interval': {}}, DataError, 'interval: 8 calibration images are too few; at least 20'),
])
def test_wrong_options_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(str(write_options(tmp_path, **changes)))
    if set(changes) & {'compress__pca_dim', 'compress__num_basis', 'interval'}:  # of later stages, told before the first
        assert not (tmp_path / 'experiments').exists()


def test_all_images_that_cannot_be_used_are_named_before_the_first_step(tmp_path):
    options = write_options(tmp_path)
    (tmp_path / 'data' / '001.png').write_bytes(b'not a picture')
    (tmp_path / 'data' / '002.png').unlink()
    Image.new('RGB', (900, 3)).save(tmp_path / 'data' / '003.png')  # of the validation set
    with pytest.raises(DataError) as raised:
        train(str(options))
    lines = str(raised.value).splitlines()
    assert lines[0] == '3 of 24 images cannot be used:'
    assert [name in line for name, line in zip(('001.png', '002.png', '003.png'), lines[1:4], strict=True)] == [True] * 3
    assert '900 x 3 pixels; the shorter edge must have at least 16' in lines[3] and not (tmp_path / 'experiments').exists()


def test_crops_and_batches_that_pictures_do_not_fit(tmp_path):
    options = write_options(tmp_path, datasets__train__augment={'random_crop': 44})
    with pytest.raises(DataError, match=r'16 of 24 images .*:\n.*48 x 40 pixels, smaller than the random_crop of 44 x 44'):
        train(str(options))
    picture = Image.open(tmp_path / 'data' / '001.png')
    options = write_options(tmp_path)
    picture.resize((64, 40)).save(tmp_path / 'data' / '001.png')
    with pytest.raises(DataError, match=r'train: the encoder takes pictures at their own size .* 40 x 48, 40 x 64 \(height'):
        train(str(options))


def with_two_tables(folder, **changes):
    """Options whose validation set is a table of its own, in another folder, of three training pictures and three new ones."""
    values = tiny_options(folder, **changes)
    other = folder / 'other'
    other.mkdir()
    for number in range(3):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(other / f'new{number}.png')
    (other / 'renamed.png').write_bytes((folder / 'data' / '001.png').read_bytes())
    Image.open(folder / 'data' / '002.png').resize((96, 80), Image.Resampling.BICUBIC).save(other / '002.bmp')
    Image.open(folder / 'data' / '000.png').save(other / '000.png')  # of the table's other split, which is not trained on
    names = ['new0.png', 'new1.png', 'new2.png', 'renamed.png', '002.bmp', '000.png']
    (other / 'm.csv').write_text('image,mos\n' + ''.join(f'{name},{1 + number / 2}\n' for number, name in enumerate(names)))
    values['datasets']['val'] = {'name': 'other', 'type': 'GeneralNRDataset', 'dataroot_target': str(other),
                                 'meta_info_file': str(other / 'm.csv'), 'mos_range': [1, 5], 'lower_better': False}
    values['val'] = {'overlap': 'fail'}
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(values))
    return path


def test_validation_on_training_images_is_refused_or_counted(tmp_path):
    with pytest.raises(DataError, match=r'val: 2 of 6 test images were trained on \(1 of them as .*renamed.png, .*002.bmp\.'):
        train(str(with_two_tables(tmp_path)))
    assert not (tmp_path / 'experiments').exists()
    results = train(str(tmp_path / 'options.yml'), overrides=['val:overlap=count'])
    found = results.overlap['val']
    assert (found['images'], found['trained_on']) == (6, 2)
    assert [Path(path).name for path in found['first']] == ['renamed.png', '002.bmp']


@pytest.mark.parametrize(('phase', 'leaks'), [('val', False), ('train', True)])
def test_of_a_set_that_draws_its_pictures_the_photographs_are_remembered(tmp_path, phase, leaks):
    photographs = tmp_path / 'photos'
    photographs.mkdir()
    for number in range(8):
        small = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((120, 96), Image.Resampling.BICUBIC).save(photographs / f'p{number}.png')
    drawn = {'name': 'drawn', 'type': 'SyntheticNRDataset', 'dataroot_photos': str(photographs), 'crop_size': 48,
             'split_ratios': [0.5, 0.25, 0.25], 'samples_per_epoch': 8, 'mos_range': [1, 5], 'lower_better': False}
    sections = {'train': {**drawn, 'batch_size_per_gpu': 4}, 'val': {**drawn, 'phase': phase}}
    options = str(write_options(tmp_path, datasets=sections,
                                compress__num_basis=4, compress__num_buckets=2, compress__pca_dim=4))
    if leaks:
        with pytest.raises(DataError, match=r'datasets: val: 4 of 4 test images were trained on'):
            train(options)
        return
    record = record_in(load_metadata(train(options).export))
    assert len(record.among(photographs.iterdir())) == len(record) == 4 and record.sets == {'drawn': 4}


def hybrid_options(folder, **changes):
    """Return options of a run on a table and on pictures that are drawn anew, of another size and supervised by order."""
    photographs = folder / 'photos'
    if not photographs.exists():
        photographs.mkdir(parents=True)
        for number in range(8):
            small = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(small).resize((120, 96), Image.Resampling.BICUBIC).save(photographs / f'p{number}.png')
    values = tiny_options(folder, align__quality={'heads': 'affine', 'rank_weight': 1.0, 'plcc_weight': 0.1},
                          compress__bucket_by='rank', score__heads='power', score__rank_weight=0.5, logger__figures=False)
    drawn = {'name': 'drawn', 'type': 'SyntheticNRDataset', 'dataroot_photos': str(photographs), 'crop_size': 36,
             'split_ratios': [0.5, 0.25, 0.25], 'samples_per_epoch': 8, 'mos_range': [1, 5], 'lower_better': False}
    values['datasets']['train'].update(share=0.5, batch_size_per_gpu=8)
    values['datasets']['train_2'] = {**drawn, 'share': 0.5, 'supervision': 'order'}
    for path, value in changes.items():
        section = values
        *parents, last = path.split('__')
        for name in parents:
            section = section.setdefault(name, {})
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    if values['datasets'].get('basis') == 'train':
        values['datasets']['basis'] = {**values['datasets']['val'], 'phase': 'train'}
    file = folder / 'hybrid.yml'
    file.write_text(yaml.safe_dump(values))
    return file


def test_real_and_drawn_pictures_are_trained_on_together_and_resumed_to_the_same_bits(tmp_path, monkeypatch):
    from pyiqa_rali.training.rali import alignment
    whole = train(str(hybrid_options(tmp_path, name='whole')))
    log = pd.read_csv(whole.folder / 'align' / 'log.csv')
    assert list(log.columns)[:3] == ['step', 'loss', 'quality_loss'] and np.isfinite(log['quality_loss']).all()
    report = json.loads((whole.folder / 'compress' / 'report.json').read_text())
    assert report['images'] == 16 + 8 and report['bucket_by'] == 'rank' and report['empty_buckets'] == 0
    assert 'quality' not in ' '.join(load_checkpoint(whole.export)[0]) and load_metadata(whole.export)['mos_range'] == [1, 5]

    class Interrupted(Exception):
        pass

    taken, step = [], alignment.train_step

    def interrupted(*arguments, **named):
        if len(taken) == 5:
            raise Interrupted
        taken.append(1)
        return step(*arguments, **named)

    monkeypatch.setattr(alignment, 'train_step', interrupted)
    with pytest.raises(Interrupted):
        train(str(hybrid_options(tmp_path, name='killed')))
    monkeypatch.setattr(alignment, 'train_step', step)
    assert same_weights(whole.export, train(str(hybrid_options(tmp_path, name='killed')), auto_resume=True).export)


def test_two_processes_share_real_and_drawn_pictures_as_one_would(tmp_path):
    one = train(str(hybrid_options(tmp_path, name='one'))).export
    options = hybrid_options(tmp_path, name='two', datasets__train__batch_size_per_gpu=4)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', str(free_port()), '-m',
               'pyiqa_rali.train', '-opt', str(options), '--launcher', 'pytorch']
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    ours, theirs = (load_checkpoint(export)[0] for export in (one, tmp_path / 'experiments/two/models/rali.safetensors'))
    for name in ours:
        if name.startswith('image_encoder.'):
            assert torch.allclose(ours[name].float(), theirs[name].float(), rtol=1e-3, atol=2e-4), name


def test_a_run_starts_from_the_encoder_that_another_stopped_with(tmp_path):
    """The first run stops early in its schedule; the second takes its encoder, and remembers what both were trained on."""
    first = train(str(write_options(tmp_path, name='first', stages=['align'], align__stop_iter=3)))
    log = pd.read_csv(first.folder / 'align' / 'log.csv')
    whole = train(str(write_options(tmp_path, name='whole', stages=['align'])))
    both = pd.read_csv(whole.folder / 'align' / 'log.csv')
    assert len(log) == 3 and len(both) == 6 and log['lr'].tolist() == both['lr'].tolist()[:3]
    assert log['loss'].tolist() == both['loss'].tolist()[:3]
    encoder = first.folder / 'align' / 'image_encoder.safetensors'
    second = train(str(write_options(tmp_path, name='second', align__total_iter=0, path__pretrain_network=str(encoder))))
    ours, theirs = load_checkpoint(second.export)[0], load_encoder(encoder).state_dict()
    assert all(torch.equal(ours[f'image_encoder.{name}'], tensor) for name, tensor in theirs.items())
    assert record_in(load_metadata(second.export)).unrecorded == []


def test_a_run_starts_from_the_mean_of_several_encoders(tmp_path):
    """Two seeds from one start; the third run begins with the mean of both, and remembers what each was trained on."""
    start = train(str(write_options(tmp_path, name='start', stages=['align'], align__stop_iter=1))).folder
    begun = {'path__pretrain_network': str(start / 'align' / 'image_encoder.safetensors'), 'stages': ['align']}
    files = [train(str(write_options(tmp_path, name=f'seed_{seed}', manual_seed=seed, **begun))).folder
             / 'align' / 'image_encoder.safetensors' for seed in (1, 2)]
    changes = {'align__total_iter': 0, 'path__pretrain_network': [str(file) for file in files]}
    export = train(str(write_options(tmp_path, name='mean', **changes))).export
    found = load_checkpoint(export)[0]
    first, second = (load_encoder(file).state_dict() for file in files)
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())
    for name, tensor in first.items():
        expected = (tensor + second[name]) / 2 if tensor.is_floating_point() else tensor
        assert torch.allclose(found[f'image_encoder.{name}'].double(), expected.double(), rtol=1e-6, atol=1e-8), name
    assert record_in(load_metadata(export)).unrecorded == []
    files[1].parents[1].joinpath('training_images.json').unlink()
    export = train(str(write_options(tmp_path, name='unrecorded', **changes))).export
    assert record_in(load_metadata(export)).unrecorded == [str(files[1])]


def test_a_run_is_not_resumed_over_another_start(tmp_path):
    """What it was trained on, and so what it may be tested on, belongs to the weights that it began with."""
    first, second = (str(train(str(write_options(tmp_path, name=f'seed_{seed}', manual_seed=seed, stages=['align'],
                                                 align__stop_iter=1))).folder / 'align' / 'image_encoder.safetensors')
                     for seed in (1, 2))
    run = {'name': 'later', 'path__pretrain_network': [first, second]}
    record = train(str(write_options(tmp_path, **run))).folder / 'training_images.json'
    before = record.read_bytes()
    for changes in ({'stages': ['compress', 'score']}, {}):
        with pytest.raises(OptionError, match='in "path": pretrain_network: was'):
            other = write_options(tmp_path, **run | {'path__pretrain_network': [second, second]} | changes)
            train(str(other), auto_resume=True)
    assert record.read_bytes() == before
    train(str(write_options(tmp_path, **run, path__feature_cache=str(tmp_path / 'elsewhere'))), auto_resume=True)


def test_a_mean_of_encoders_that_are_built_differently_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    start = train(str(write_options(tmp_path, name='start', stages=['align'], align__stop_iter=1))).folder
    file = start / 'align' / 'image_encoder.safetensors'
    wider = Path(str(file).replace('image_encoder', 'wider'))
    export = train(str(write_options(tmp_path, name='export'))).export
    tensors = load_file(export)
    name = next(name for name in tensors if name.startswith('image_encoder.') and tensors[name].dim() > 1)
    with safe_open(export, 'pt') as opened:
        save_file({**tensors, name: torch.cat([tensors[name], tensors[name]])}, wider, metadata=opened.metadata())
    for place, files in ((1, [str(file), str(wider)]), (0, [str(wider), str(file)])):
        with pytest.raises(CheckpointError, match='path: pretrain_network: .*wider.safetensors'):
            train(str(write_options(tmp_path, name=f'mean_{place}', path__pretrain_network=files)))
    with pytest.raises(OptionError, match='pretrain_network'):
        train(str(write_options(tmp_path, name='none', path__pretrain_network=[])))


def test_scores_may_leave_on_another_range(tmp_path):
    own, wide = (train(str(hybrid_options(tmp_path, name=name, export__mos_range=mos_range)))
                 for name, mos_range in (('own', None), ('wide', [0, 100])))
    assert load_metadata(wide.export)['mos_range'] == [0, 100]
    pictures = torch.rand(2, 3, 40, 48)
    scores = [RALI(pretrained_model_path=str(each.export))(pictures) for each in (own, wide)]
    assert torch.allclose(scores[1], (scores[0] - 1) * 25, atol=1e-3)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'datasets__train__share': None}, 'datasets: train: share: must be given, since drawn draws its pictures anew'),
    ({'datasets__train_2__share': 0.001}, 'train_2: share: 0.001, of .* leaves it without a picture in a batch of 8'),
    ({'datasets__train_2__batch_size_per_gpu': 3}, 'train_2: batch_size_per_gpu: 3 has no effect: train says how many'),
    ({'datasets__train__supervision': 'order'}, 'supervision: order cannot be that of the first train set'),
    ({'align__quality': None, 'score__rank_weight': 0.0}, 'supervision: order teaches nothing without a rank loss'),
    ({'align__quality': None, 'datasets__basis': 'train'}, 'order teaches nothing without a rank loss. Give align: quality'),
    ({'datasets__val__share': 0.5}, 'datasets: val: share: is for training sets'),
    ({'datasets__train_2': None, 'datasets__train__share': 0.5}, 'share: has no effect: a single training set'),
    ({'score__fine_tune': False, 'score__heads': 'affine'}, 'score: heads: affine is learned in fine-tuning'),
    ({'score__fine_tune': False, 'score__heads': 'none'}, 'train_2: supervision: order needs fine-tuning'),
    ({'datasets__train__supervision': 'ordre'}, 'supervision: "?ordre"?'),
    ({'align__quality__heads': 'linear'}, 'align: quality: heads: "?linear"?'),
])
def test_hybrid_options_that_cannot_be_used_are_refused(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        train(str(hybrid_options(tmp_path, **changes)))


def test_an_export_remembers_what_it_was_trained_on(tmp_path, capsys):
    from pyiqa_rali.__main__ import main
    first = Path(train(str(write_options(tmp_path))).export)
    record = record_in(load_metadata(first))
    names = [str(tmp_path / 'data' / f'{number:03d}.png') for number in range(24)]
    assert list(record.among(names)) == [name for number, name in enumerate(names) if number % 3]
    assert record.sets == {'tiny': 16}
    capsys.readouterr()
    assert main(['info', str(first)]) == 0
    assert 'training_images: 16 (16 of tiny)' in capsys.readouterr().out
    assert record_in(load_checkpoint(first.with_suffix('.pth'))[1]).among(names) == record.among(names)
    net = RALI(pretrained_model_path=first)
    assert len(net.training_images) == 16 and RALI(pretrained='rali-lite-v1').training_images is None
    changes = {'name': 'later', 'path__pretrain_network': str(first), 'datasets__train__split_index': None,
               'datasets__train__reasoning_texts': str(all_texts(tmp_path)), 'val__overlap': 'count'}
    again = train(str(write_options(tmp_path, **changes)))
    assert len(record_in(load_metadata(again.export))) == 24 and again.overlap['val']['trained_on'] == 8
    assert train(str(write_options(tmp_path, **changes, stages=['score']))).overlap['val']['trained_on'] == 8
    assert len(record_in(load_metadata(again.export))) == 24


def all_texts(folder):
    """Texts for every image of the tiny table."""
    path = folder / 'all.jsonl'
    path.write_text('\n'.join(json.dumps({'image': f'{number:03d}.png', 'texts': [{'text': 'good.', 'seed': 0, 'model': 'm'}]})
                              for number in range(24)))
    return path


def test_a_run_of_an_earlier_version_is_resumed_with_what_that_version_did(tmp_path):
    train(str(write_options(tmp_path)))
    folder = tmp_path / 'experiments' / 'tiny'
    record = yaml.safe_load((folder / 'options.yml').read_text())
    del record['compress']['bucket_range'], record['val']['overlap']
    (folder / 'options.yml').write_text(yaml.safe_dump(record))
    with pytest.raises(OptionError, match="in \"compress\": bucket_range: was 'mos_range', is 'labels'"):
        train(str(write_options(tmp_path)), auto_resume=True)
    train(str(write_options(tmp_path, compress__bucket_range='mos_range')), auto_resume=True)


def test_the_report_counts_buckets(tmp_path):
    train(str(write_options(tmp_path)))
    report = json.loads((tmp_path / 'experiments/tiny/compress/report.json').read_text())
    assert report['images'] == 16 and sum(report['basis_per_bucket']) == 8


FROZEN = {'align__freeze_layers': -1, 'datasets__train__augment': None, 'align__quality': {'plcc_weight': 0.5},
          'align__prompts': {'high': ['very clear'], 'low': ['very noisy']}, 'val__val_freq': 3,
          'datasets__val__name': 'held out'}


def test_a_frozen_backbone_that_is_asked_once_gives_the_same_model(tmp_path, monkeypatch):
    plain = train(str(write_options(tmp_path, name='plain', **FROZEN)))
    embedded = watch_encoding(monkeypatch)
    cached = train(str(write_options(tmp_path, name='cached', align__cache_backbone=True, **FROZEN)))
    assert embedded == ['tiny', 'held out']
    ours, others = load_checkpoint(cached.export)[0], load_checkpoint(plain.export)[0]
    assert ours.keys() == others.keys()
    assert all(torch.allclose(ours[name].float(), others[name].float(), atol=1e-5) for name in ours)
    assert cached.best == pytest.approx(plain.best, abs=1e-5)
    logs = [np.genfromtxt(each.folder / 'align' / 'log.csv', delimiter=',', skip_header=1) for each in (cached, plain)]
    assert np.allclose(*logs, atol=1e-5, equal_nan=True)
    folder = tmp_path / 'experiments' / 'feature_cache'
    options = write_options(tmp_path, name='other', align__cache_backbone=True, align__lr=5e-3, **FROZEN)
    other, files = train(str(options)), list(folder.rglob('*.safetensors'))
    assert embedded == ['tiny', 'held out'] and not same_weights(other.export, cached.export)
    other.export.unlink()
    assert train(str(options), auto_resume=True).best == other.best and list(folder.rglob('*.safetensors')) == files
    for file in files:
        file.unlink()
    elsewhere = {'align__cache_backbone': True, 'path__feature_cache': str(tmp_path / 'kept')}
    half = train(str(write_options(tmp_path, name='half', export__dtype='float16', **elsewhere, **FROZEN)))
    assert embedded == ['tiny', 'held out'] * 2 and half.best['key'] == pytest.approx(cached.best['key'], abs=0.2)
    assert list((tmp_path / 'kept').rglob('*.safetensors')) and not list(folder.rglob('*.safetensors'))


def test_a_frozen_backbone_takes_the_first_draws_of_a_set_that_draws_anew(tmp_path, monkeypatch):
    photos = tmp_path / 'photos'
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        small.resize((96, 72), Image.Resampling.BICUBIC).save(photos / f'{number}.png')
    drawn = {'name': 'drawn', 'type': 'SyntheticNRDataset', 'phase': 'train', 'dataroot_photos': str(photos), 'crop_size': 64,
             'split_ratios': [1, 0, 0], 'mos_range': [1, 5], 'lower_better': False, 'samples_per_epoch': 10}
    options = write_options(tmp_path, name='both', align__cache_backbone=True, datasets__train_2=drawn,
                            bank={'num_texts': 4, 'num_candidates': 40}, compress__bucket_by='rank', **FROZEN)
    embedded = watch_encoding(monkeypatch)
    found = train(str(options))
    assert embedded == ['tiny', 'drawn', 'held out']
    features = load_features(found.folder / 'compress' / 'features_train_2.safetensors')
    assert len(features.image_names) == 10 and features.agreement.shape[0] == 10
    assert found.export.exists() and json.loads((found.folder / 'compress' / 'report.json').read_text())['images'] == 26


@pytest.mark.parametrize(('changes', 'message'), [
    ({'align__freeze_layers': 2}, r'align: cache_backbone: true needs .* freeze_layers: -1; it is 2\.'),
    ({'datasets__val__augment': {'hflip': True}}, r"datasets: val: augment: \{'hflip': True\} changes the pictures, .* Remove"),
])
def test_what_is_not_the_same_each_time_cannot_be_kept(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        train(str(write_options(tmp_path, align__cache_backbone=True, **{**FROZEN, **changes})))


def test_pictures_that_are_in_two_sets_are_encoded_once(tmp_path, monkeypatch):
    embedded = watch_encoding(monkeypatch)
    same = {**tiny_options(tmp_path)['datasets']['val'], 'name': 'again', 'phase': 'val'}
    found = train(str(write_options(tmp_path, datasets__test=same, datasets__val__name='held out')))
    ours, others = (load_features(found.folder / 'compress' / f'features_{name}.safetensors') for name in ('val', 'test'))
    assert embedded == ['tiny', 'again']  # the file of options is sorted by name: test comes before val
    assert torch.equal(ours.image_features, others.image_features)
