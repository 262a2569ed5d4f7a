"""The whole chain at the smallest scale: every step's files, both metrics, and steps that are not done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.studies.chain.options import chain_options
from pyiqa_rali.studies.chain.run import Chain, run_chain
from pyiqa_rali.vlm.loading import load_vlm
from tests.tiny import tiny_options

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / 'options' / 'demo' / 'chain.yml'


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """The demo's own options, cut down to a few steps on six small pictures."""
    folder = tmp_path_factory.mktemp('chain')
    (folder / 'photos').mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((80, 80), Image.Resampling.BICUBIC).save(folder / 'photos' / f'{number}.png')
    values = yaml.safe_load(DEMO.read_text())
    rali = tiny_options(folder / 'rali')
    values['data'].update(photos=str(folder / 'photos'), size=[64, 64], levels=[1, 3, 5], ratios=[0.34, 0.33, 0.33])
    values['vlm'].update(image_size=32, width=32, layers=2)
    values['cold_start'].update(examples=64)
    values['cold_start']['sft'].update(max_steps=60, per_device_train_batch_size=16, learning_rate=1e-2)
    values['grpo'].update(max_steps=2, per_device_train_batch_size=16, num_generations=4)
    values['logger'].update(print_freq=1)
    values['val'].update(val_freq=2, num_samples=1)
    values['texts'].update(texts_per_image=1, attempts=40)
    values['rali'].update({name: rali[name] for name in ('network', 'text_encoder', 'align', 'compress', 'score', 'logger')},
                          loader={'batch_size_per_gpu': 4, 'num_worker_per_gpu': 0})
    values['rali']['compress'] = {'pca_dim': 4, 'num_buckets': 2, 'num_basis': 3}
    values['path'] = {'experiments_root': str(folder)}
    (folder / 'chain.yml').write_text(yaml.safe_dump(values))
    return folder / 'chain.yml'


def test_the_chain_leaves_figures_of_both_metrics(options):
    results = run_chain(options)
    root = options.parent / 'chain' / 'seed_0'
    found = results.seeds['0']
    assert results.medians == pytest.approx(found)
    assert results.seeds_without_value == {name: [0] for name, value in found.items() if value is None}
    assert {'rali_test_srcc', 'reward_gain', 'reasoning_before_test_mean_srcc', 'reasoning_after_test_mean_srcc',
            'time_ratio_mean', 'time_ratio_expectation', 'reasoning_after_test_expectation_text_srcc', 'written_text_srcc',
            'reasoning_before_test_mean_text_srcc', 'rali_test_srcc_darken'} <= set(found)
    assert found['reasoning_before_test_mean_text_class_majority'] == 1
    assert 0 < found['time_ratio_mean'] < 1 and found['rali_ms'] > 0
    for name in ('data/meta_info.csv', 'vlm/config.json', 'cold_start/models/reasoning/config.json', 'grpo/log.csv',
                 'grpo/figures/training_curves.png', 'reasoning_texts.jsonl', 'texts_report.json',
                 'rali/models/rali.safetensors', 'figures/texts_and_scores.png', 'results.json'):
        assert (root / name).stat().st_size > 0, name
    assert json.loads((root.parent / 'results.json').read_text(), parse_constant=pytest.fail) == {
        'medians': results.medians, 'seeds_without_value': results.seeds_without_value, 'seeds': results.seeds}
    assert results.folder == root.parent
    json.loads((root / 'results.json').read_text(), parse_constant=pytest.fail)


def test_finished_steps_are_kept_when_it_goes_on(options):
    root = options.parent / 'chain' / 'seed_0'
    kept = ['vlm/model.safetensors', 'cold_start/models/reasoning/model.safetensors', 'grpo/models/reasoning/model.safetensors',
            'reasoning_texts.jsonl', 'rali/models/rali.safetensors']
    before = {name: (root / name).stat().st_mtime_ns for name in kept}
    run_chain(options, auto_resume=True, overrides=['texts:attempts=41'])  # what the error about missing texts advises
    assert {name: (root / name).stat().st_mtime_ns for name in kept} == before
    with pytest.raises(OptionError, match='the options differ .* in "grpo": max_steps: was 2, is 3'):
        run_chain(options, auto_resume=True, overrides=['grpo:max_steps=3'])


def changed(options, folder, key, value):
    """Write the options to `folder` with one of them set, and return the file."""
    values = yaml.safe_load(options.read_text())
    *parents, last = key.split(':')
    section = values
    for name in parents:
        section = section[name]
    section[last] = value
    values['path'] = {'experiments_root': str(folder)}
    (folder / 'changed.yml').write_text(yaml.safe_dump(values))
    return folder / 'changed.yml'


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('seeds', [], 'seeds: must hold at least one'), ('seeds', [1, 1], r'seeds: \[1, 1\]: must not name a seed twice'),
    ('data:size', 3, 'data: size: 3 must be of type list'), ('data:types', ['jpgg'], 'types: "jpgg" is not one of'),
    ('data:seed', 3, 'data: seed: is set by the chain for each seed. Remove it'),
    ('data:ratios', [0.8, 0, 0.2], 'data: ratios: .* must be three shares above 0'),
    ('vlm:widht', 3, 'vlm: unknown key "widht"'), ('vlm:width', 40, 'vlm: width: 40 must be a multiple of 16'),
    ('vlm:layers', 1, 'vlm: layers: 1 must be at least 2'),
    ('cold_start:examples', 'many', "examples: 'many' must be of type int"),
    ('cold_start:examples', 0, 'cold_start: examples: 0 must be at least 1'),
    ('cold_start:sft:max_step', 3, 'sft: unknown key "max_step"'), ('cold_start:sft:optim', 'sdg', 'sft: .*sdg'),
    ('rewards:naming', -1.0, 'rewards: naming: -1.0 must be at least 0'),
    ('grpo:max_step', 1, 'grpo: unknown key "max_step"'), ('grpo:num_generations', 5, 'grpo: .*num_generations'),
    ('grpo:max_completion_length', None, 'grpo: max_completion_length: must be given'),
    ('val:num_samples', 0, 'val: num_samples: 0 must be at least 1'),
    ('logger:print_freq', 3, 'logger: print_freq: 3 is more than the 2 steps of GRPO'),
    ('texts:attempts', 0, 'texts: attempts: 0 must be at least 1'), ('texts:temperature', 0, 'texts: temperature: 0'),
    ('rali:loader', None, 'rali: loader: must be given'), ('rali:loader:batch', 3, 'datasets: train: unknown key "batch"'),
    ('rali:name', 'x', 'rali: name: is set by the chain'), ('rali:val:key_metric', 'scrr', 'val: key_metric: "scrr" is'),
    ('rali:val:key_dataset', 'tset', 'val: key_dataset: "tset" is not one of val, test'),
    ('rali:text_encoder:path', './nowhere', 'text_encoder: path: "./nowhere" is not a folder'),
    ('rali:network:image_encoder:pretrained', 'nowhere.pth', 'image_encoder: pretrained: nowhere.pth is not a file')])
def test_options_of_every_step_are_checked_before_the_first(options, tmp_path, key, value, message):
    with pytest.raises(OptionError, match=message):
        run_chain(changed(options, tmp_path, key, value))
    assert not (tmp_path / 'chain').exists()


def test_what_grpo_cannot_do_with_the_images_is_told_before_the_cold_start(options, tmp_path):
    path = changed(options, tmp_path, 'grpo:per_device_train_batch_size', 512)
    with pytest.raises(OptionError, match='= 128 images per generation, but the training sets hold'):
        run_chain(path)
    assert (tmp_path / 'chain' / 'seed_0' / 'vlm').exists() and not (tmp_path / 'chain' / 'seed_0' / 'cold_start').exists()


def test_a_model_that_was_half_written_is_written_anew(options, tmp_path, monkeypatch):
    chain = Chain(chain_options(yaml.safe_load(options.read_text())), 0, tmp_path, True)
    chain.make_data()

    def killed(model, folder):
        (folder / 'config.json').write_text('{}')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('transformers.Qwen2_5_VLForConditionalGeneration.save_pretrained', killed)
        chain.make_vlm()
    assert not (tmp_path / 'vlm').exists()
    chain.make_vlm()
    assert load_vlm(tmp_path / 'vlm').model.config.model_type == 'qwen2_5_vl'
