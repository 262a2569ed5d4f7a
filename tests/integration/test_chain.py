"""The whole chain at the smallest scale: every step's files, both metrics, and steps that are not done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.chain import run_chain
from pyiqa_rali.errors import OptionError
from tests.tiny import tiny_options

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
    found = results['seeds']['0']
    assert results['medians'] == pytest.approx(found, nan_ok=True)
    assert {'rali_test_srcc', 'reward_gain', 'reasoning_before_test_mean_srcc', 'reasoning_after_test_mean_srcc',
            'time_ratio_mean', 'time_ratio_expectation', 'reasoning_after_test_expectation_text_srcc', 'written_text_srcc',
            'reasoning_before_test_mean_text_srcc', 'rali_test_srcc_darken'} <= set(found)
    assert found['reasoning_before_test_mean_text_class_majority'] == 1
    assert 0 < found['time_ratio_mean'] < 1 and found['rali_ms'] > 0
    for name in ('data/meta_info.csv', 'vlm/config.json', 'cold_start/models/reasoning/config.json', 'grpo/log.csv',
                 'grpo/figures/training_curves.png', 'reasoning_texts.jsonl', 'texts_report.json',
                 'rali/models/rali.safetensors', 'figures/texts_and_scores.png', 'results.json'):
        assert (root / name).stat().st_size > 0, name
    assert json.loads((root.parent / 'results.json').read_text())['seeds']['0'].keys() == found.keys()


def test_finished_steps_are_kept_when_it_goes_on(options):
    root = options.parent / 'chain' / 'seed_0'
    kept = ['vlm/model.safetensors', 'cold_start/models/reasoning/model.safetensors', 'grpo/models/reasoning/model.safetensors',
            'reasoning_texts.jsonl', 'rali/models/rali.safetensors']
    before = {name: (root / name).stat().st_mtime_ns for name in kept}
    run_chain(options, auto_resume=True, overrides=['texts:attempts=41'])  # what the error about missing texts advises
    assert {name: (root / name).stat().st_mtime_ns for name in kept} == before
    with pytest.raises(OptionError, match='the options differ .* in "grpo": max_steps: was 2, is 3'):
        run_chain(options, auto_resume=True, overrides=['grpo:max_steps=3'])


@pytest.mark.parametrize(('override', 'message'), [
    ('seeds=[]', 'seeds: must name one seed'), ('data:size=3', 'size: 3 must be of type tuple'),
    ('grpo:max_step=1', 'names "max_step"'),
    ('cold_start:examples=many', "examples: 'many' must be of type int")])
def test_options_that_cannot_be_used(options, tmp_path, override, message):
    with pytest.raises(OptionError, match=message):
        run_chain(options, overrides=[override, f'path:experiments_root={tmp_path}'])
