"""GRPO and SFT with a tiny model: exact resumption, export, checks before the first step."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.core.processes import is_main
from pyiqa_rali.data.training_images import record_beside
from pyiqa_rali.report.reasoning_run import reasoning_section
from pyiqa_rali.train import main
from pyiqa_rali.training.vlm.grpo import train_grpo
from pyiqa_rali.training.vlm.monitor import ValidationCallback
from pyiqa_rali.training.vlm.options import GrpoOptions, ReasoningValOptions, SftOptions, grpo_options, sft_options
from pyiqa_rali.training.vlm.ract import run_ract
from pyiqa_rali.training.vlm.sft import run_sft, train_sft
from pyiqa_rali.vlm.chat import rendered_chat
from pyiqa_rali.vlm.prompts import Prompt, ReasoningCard, read_card
from pyiqa_rali.vlm.scorer import ReasoningScorer
from pyiqa_rali.vlm.tables import Row
from tests.tiny import free_port, tiny_vlm

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A tiny model and twelve gray pictures whose MOS is their brightness, with a table and texts."""
    folder = tmp_path_factory.mktemp('data')
    (folder / 'images').mkdir()
    rows, texts = [], []
    for number in range(12):
        level = number / 11
        picture = np.random.default_rng(number).integers(0, 40, (32, 32, 3)) + int(200 * level)
        Image.fromarray(picture.astype(np.uint8)).save(folder / 'images' / f'{number}.png')
        rows.append([f'{number}.png', f'{100 * level:.1f}', 'val' if number % 4 == 3 else 'train'])
        texts.append({'image': f'{number}.png', 'texts': [{'text': f'Level {number}.', 'seed': 0, 'model': 'm'}]})
    with open(folder / 'meta.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows([['image', 'mos', 'a_split'], *rows])
    train_names = {row[0] for row in rows if row[2] == 'train'}
    (folder / 'texts.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in texts if row['image'] in train_names))
    with open(folder / 'degradations.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows([['image', 'distortion_class', 'severity'], ['0.png', 'darken', 'serious'],
                                      ['10.png', 'null', 'null']])
    start_cold(folder, tiny_vlm(folder / 'random'))
    return folder


def start_cold(folder, vlm):
    """Teach the format, without which no reward differs from another and no weight changes."""
    card = ReasoningCard(score_prompt='Rate it from {low:g} to {high:g}.')
    completions = [f'<think>A.</think><answer>{{"rating": {1 + number * 0.37 % 4:.2f}}}</answer>' for number in range(64)]
    options = sft_options({
        'name': 'cold', 'manual_seed': 0, 'datasets': {'train': {}}, 'network': {'pretrained': str(vlm)},
        'prompts': {'score_prompt': card.score_prompt}, 'path': {'experiments_root': str(folder)},
        'sft': {'max_steps': 120, 'per_device_train_batch_size': 16, 'learning_rate': 1e-2, 'disable_tqdm': True},
        'logger': {'print_freq': 20, 'save_checkpoint_freq': 1000, 'use_tb_logger': False}})
    train = [number for number in range(12) if number % 4 != 3]  # a model that was trained on them could not be validated there
    rows = [Row(str(folder / 'images' / f'{train[number % 9]}.png'), 'cold', mos=3.0) for number in range(64)]
    Path(run_sft(options, rows, completions, {}).export).rename(folder / 'vlm')


def table(data):
    return {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': str(data / 'images'), 'split_index': 'a_split',
            'meta_info_file': str(data / 'meta.csv'), 'mos_range': [0, 100], 'lower_better': False}


def write_options(data, folder, **changes):
    values = {
        'name': 'tiny', 'model_type': 'GRPO', 'manual_seed': 0,
        'datasets': {'train': table(data), 'val': {**table(data)}},
        'network': {'pretrained': str(data / 'vlm')},
        'prompts': {'score_prompt': 'Rate it from {low:g} to {high:g}.'},
        'rewards': {'format': 1.0, 'score': 1.0, 'rank': 1.0},
        'grpo': {'max_steps': 6, 'per_device_train_batch_size': 8, 'num_generations': 4, 'learning_rate': 1e-3,
                 'max_completion_length': 48, 'disable_tqdm': True},
        'path': {'experiments_root': str(folder)},
        'val': {'val_freq': 4, 'num_samples': 1, 'max_images': 3},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False}}
    for name, value in changes.items():
        *sections, key = name.split('__')
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[key] = value
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(values))
    return str(path)


def read_csv(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


def weights(folder):
    return load_file(next(Path(folder).glob('*model.safetensors')))


def same(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


LORA = {'network__train': 'lora', 'network__lora': {'r': 2, 'target_modules': r'.*(q_proj|v_proj)', 'lora_alpha': 4},
        'export__merge': False}


def test_a_run_leaves_records_samples_curves_and_a_model_that_scores(data, tmp_path):
    options = write_options(data, tmp_path)
    assert main(['-opt', options]) == 0
    root = tmp_path / 'tiny'
    log = read_csv(root / 'log.csv')
    assert [row['step'] for row in log] == [str(step) for step in range(1, 7)]
    assert {'reward', 'rewards/format/mean', 'rewards/rank/mean', 'entropy'} <= set(log[0])
    val = read_csv(root / 'val.csv')
    assert [row['step'] for row in val] == ['0', '4', '6'] and 'val/mean_srcc' in val[0]
    samples = read_csv(root / 'samples.csv')
    assert len(samples) == 24 and samples[0]['image'].endswith('.png')
    assert (root / 'figures' / 'training_curves.png').stat().st_size > 5000
    net = ReasoningScorer(pretrained_model_path=root / 'models' / 'reasoning', max_new_tokens=16)
    assert net.card.prompt().question == 'Rate it from 1 to 5.'
    assert not same(root / 'models' / 'reasoning', data / 'vlm')


READ = {'rewards': {'format': 1.0, 'reading': 1.0, 'most_surprise': 30.0}}


@pytest.mark.parametrize('changes', [{}, LORA, {'grpo__num_iterations': 2}, READ],
                         ids=['full', 'lora', 'two iterations', 'read'])
def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path, changes):
    """Killed with SIGKILL after the checkpoint of step 4, whose folder is followed by a half-written one."""
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'killed').mkdir()
    whole = train_grpo(write_options(data, tmp_path / 'whole', **changes)).export
    options = write_options(data, tmp_path / 'killed', **changes)
    code = f"""
import os, signal
from transformers import TrainerCallback
from pyiqa_rali.training.vlm import monitor
def kill(self, args, state, control, **kwargs):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
monitor.RecordCallback.on_step_end = kill
from pyiqa_rali.training.vlm.ract import run_ract
from pyiqa_rali.training.vlm.grpo import train_grpo
from pyiqa_rali.training.vlm.monitor import ValidationCallback
train_grpo({options!r})
"""
    result = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, env=os.environ)
    assert result.returncode == -9, result.stderr
    half = tmp_path / 'killed' / 'tiny' / 'checkpoints' / 'checkpoint-6'
    half.mkdir()
    (half / 'model.safetensors').write_bytes(b'half')
    resumed = train_grpo(options, auto_resume=True).export
    assert same(whole, resumed)
    logs = [(tmp_path / name / 'tiny' / 'log.csv').read_text().splitlines() for name in ('whole', 'killed')]
    assert [line.split(',')[:2] for line in logs[0]] == [line.split(',')[:2] for line in logs[1]]
    assert len({line.split(',')[1] for line in logs[0]}) > 4 and (changes == LORA or not same(whole, data / 'vlm'))


def in_two_processes(options, *more, script=('-m', 'pyiqa_rali.train')):
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', free_port()]
    result = subprocess.run([sys.executable, *launcher, *script, '-opt', options, *more], cwd=REPOSITORY,
                            capture_output=True, text=True,
                            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(REPOSITORY), os.environ['PYTHONPATH']])})
    return result.returncode, result.stderr


def noting_ratings(file):
    """Return `ValidationCallback._describe` that also writes the ratings of every validation to a file."""
    describe = ValidationCallback._describe

    def noting(self, rows):
        found = describe(self, rows)
        if is_main():
            with open(file, 'a') as stream:
                stream.write(json.dumps([rating for rating, _ in found]) + '\n')
        return found
    return noting


NOTING = """import sys
from pyiqa_rali.train import main
from pyiqa_rali.training.vlm.monitor import ValidationCallback
from tests.integration.test_grpo import noting_ratings
ValidationCallback._describe = noting_ratings(sys.argv.pop(1))
sys.exit(main())
"""


def test_two_processes_compare_their_images(data, tmp_path, monkeypatch):
    """One image a process: without gathering there would be nobody to compare with, and no rank reward at all.

    The first validation, before a step, is that of one process: two of the three images in one batch, one in the other's.
    """
    changes = {'rewards': {'rank': 1.0, 'margin': 1.0}, 'grpo__max_steps': 4, 'val__batch_size': 2}
    (tmp_path / 'one').mkdir()
    monkeypatch.setattr(ValidationCallback, '_describe', noting_ratings(tmp_path / 'one.jsonl'))
    train_grpo(write_options(data, tmp_path / 'one', **changes))
    options = write_options(data, tmp_path, grpo__per_device_train_batch_size=4, **changes)
    (tmp_path / 'noting.py').write_text(NOTING)
    returned, errors = in_two_processes(options, script=(str(tmp_path / 'noting.py'), str(tmp_path / 'two.jsonl')))
    assert returned == 0, errors[-3000:]
    ratings = [[json.loads(line) for line in (tmp_path / f'{name}.jsonl').read_text().splitlines()] for name in ('one', 'two')]
    # the processes move the weights to addresses of another alignment, where products are summed in another order: expected
    # ratings differ by 4e-7 at most (float32), and these three pictures' lie so near to each other that PLCC shows it
    assert ratings[1][0] == pytest.approx(ratings[0][0], abs=1e-6 * (5 - 1))
    assert ratings[1][1] == ratings[0][1]  # written and parsed, not computed
    one, two = (read_csv(root / 'tiny' / 'val.csv') for root in (tmp_path / 'one', tmp_path))
    assert [row['step'] for row in two] == ['0', '4'] and one[0].keys() == two[0].keys()
    plcc = [float(row[0].pop('val/expectation_plcc')) for row in (one, two)]
    mos = [round(100 * number / 11, 1) for number in (3, 7, 11)]
    assert plcc == pytest.approx([np.corrcoef(of_first, mos)[0, 1] for of_first, *_ in ratings], abs=1e-6)
    assert [float(value) for value in two[0].values()] == pytest.approx([float(value) for value in one[0].values()], abs=1e-5)
    log = read_csv(tmp_path / 'tiny' / 'log.csv')
    assert [row['step'] for row in log] == ['1', '2', '3', '4']
    assert all(0 <= float(row[f'rewards/{name}/mean']) <= 1 for row in log for name in ('rank', 'margin'))
    assert ReasoningScorer(pretrained_model_path=tmp_path / 'tiny' / 'models' / 'reasoning', max_new_tokens=8)


def test_a_system_message_is_seen_in_training_and_kept_with_the_weights(data, tmp_path, monkeypatch):
    seen, generate = [], Qwen2_5_VLForConditionalGeneration.generate

    def watched(self, *rest, **options):
        seen.extend(options['input_ids'].tolist())
        return generate(self, *rest, **options)
    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, 'generate', watched)
    export = train_grpo(write_options(data, tmp_path, grpo__max_steps=1, prompts__system_prompt='Judge it.', val__val_freq=None,
                                      datasets={'train': table(data)})).export
    net = ReasoningScorer(pretrained_model_path=export, max_new_tokens=8)
    asked = rendered_chat(net.reasoner.processor, Prompt('Rate it from 1 to 5.', 'Judge it.'))
    assert net.info['chat'] == asked and asked.startswith('<|im_start|>system\nJudge it.<|im_end|>')
    chats = net.reasoner.processor.tokenizer.batch_decode(seen)
    assert {re.sub(r'(<\|image_pad\|>)+', '<|image_pad|>', chat) for chat in chats} == {asked}


def test_a_template_without_system_messages_ends_training_at_once(data, tmp_path):
    copy = shutil.copytree(data / 'vlm', tmp_path / 'vlm')
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" \
        + (copy / 'chat_template.jinja').read_text()
    (copy / 'chat_template.jinja').write_text(template)
    with pytest.raises(OptionError, match='system_prompt: the chat template of this model takes no system message'):
        train_grpo(write_options(data, tmp_path, prompts__system_prompt='Judge it.', network__pretrained=str(copy)))


def test_a_start_that_was_asked_otherwise_is_told(data, tmp_path, caplog):
    values = {'grpo__max_steps': 1, 'val__val_freq': None, 'datasets': {'train': table(data)}}
    train_grpo(write_options(data, tmp_path, **values))
    assert 'was trained with another' not in caplog.text
    train_grpo(write_options(data, tmp_path, name='other', prompts__system_prompt='Judge it.', **values))
    assert "prompts: system_prompt: the model that training starts from was trained with another one: None, now 'Judge it.'" \
        in caplog.text


def test_a_resumed_run_refuses_other_options(data, tmp_path, capfd):
    train_grpo(write_options(data, tmp_path, grpo__max_steps=2))
    told = capfd.readouterr()
    assert told.out == '' and 'step 2' not in told.err and '/2 [' not in told.err  # the library prints nothing, nor the trainer
    (tmp_path / 'tiny' / 'models' / 'reasoning').rename(tmp_path / 'elsewhere')
    with pytest.raises(OptionError, match='the options differ .* in "grpo": learning_rate: was 0.001, is 0.5'):
        train_grpo(write_options(data, tmp_path, grpo__max_steps=2, grpo__learning_rate=0.5), auto_resume=True)


def test_a_reader_of_its_own_and_a_column_of_classes(data, tmp_path):
    rows = read_csv(data / 'meta.csv')
    with open(tmp_path / 'meta.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows([['image', 'mos', 'a_split', 'fault'], *(
            [row['image'], row['mos'], row['a_split'], ('a', 'b', '')[number % 3]] for number, row in enumerate(rows))])
    rewards = {'format': 1.0, 'reading': 1.0, 'reader': str(data / 'random'), 'naming': 1.0,
               'class_words': {'a': ['A'], 'b': ['B']}}
    train_grpo(write_options(data, tmp_path, rewards=rewards, grpo__max_steps=2, val__val_freq=None,
                             datasets__train={**table(data), 'meta_info_file': str(tmp_path / 'meta.csv'),
                                              'class_column': 'fault'}))
    log = read_csv(tmp_path / 'tiny' / 'log.csv')
    assert all(0 < float(row['rewards/reading/mean']) <= 1 and 0 <= float(row['rewards/naming/mean']) <= 1 for row in log)


@pytest.mark.parametrize('changes', [{}, LORA], ids=['full', 'lora'])
def test_a_run_that_was_killed_before_its_export_takes_no_step_more(data, tmp_path, changes):
    options = write_options(data, tmp_path, grpo__lr_scheduler_type='constant', grpo__max_steps=5, **changes,
                            logger__save_checkpoint_freq=5)
    train_grpo(options)
    root = tmp_path / 'tiny'
    records = {name: (root / name).read_bytes() for name in ('log.csv', 'val.csv', 'samples.csv')}
    shutil.move(root / 'models', tmp_path / 'whole')
    lines = records['val.csv'].splitlines(keepends=True)
    (root / 'val.csv').write_bytes(b''.join(lines[:-1]))  # killed before the last validation
    train_grpo(options, auto_resume=True)
    assert same(tmp_path / 'whole' / 'reasoning', root / 'models' / 'reasoning')
    assert {name: (root / name).read_bytes() for name in records} == records
    shutil.rmtree(root / 'models')  # killed while exporting
    train_grpo(options, auto_resume=True)
    assert {name: (root / name).read_bytes() for name in records} == records


@pytest.fixture(scope='module')
def adapter(data, tmp_path_factory):
    return Path(train_grpo(write_options(data, tmp_path_factory.mktemp('adapter'), grpo__learning_rate=1e-2, **LORA)).export)


def test_a_run_may_start_from_an_adapter(data, adapter, tmp_path):
    """The divergence is measured from the merged model, and all weights are trained."""
    options = write_options(data, tmp_path, network__pretrained=str(adapter), grpo__beta=0.1, grpo__max_steps=2)
    export = train_grpo(options).export
    assert float(read_csv(tmp_path / 'tiny' / 'log.csv')[0]['kl']) == pytest.approx(0, abs=1e-6)
    before, after = weights(data / 'vlm'), weights(export)
    assert all(not (before[name] == after[name]).all() for name in before if name.endswith('proj.weight'))
    with pytest.raises(OptionError, match='export: merge: false: .* is an adapter, and one trained on top of it would be lost'):
        train_grpo(write_options(data, tmp_path, network__pretrained=str(adapter), **LORA))


def test_an_adapter_knows_where_its_base_is_from_anywhere(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    options = write_options(data, tmp_path, network__pretrained='vlm', grpo__max_steps=1, val__val_freq=None, **LORA)
    export = train_grpo(options).export
    monkeypatch.chdir(tmp_path)
    assert ReasoningScorer(pretrained_model_path=export, max_new_tokens=8)


def test_adapters_that_would_be_left_out_are_refused(adapter, tmp_path):
    part, twice = tmp_path / 'part', tmp_path / 'twice'
    for copy in (part, twice):
        shutil.copytree(adapter, copy)
    tensors = load_file(part / 'adapter_model.safetensors')
    save_file(dict(list(tensors.items())[2:]), part / 'adapter_model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(CheckpointError, match='2 weights of its adapter are not there'):
        ReasoningScorer(pretrained_model_path=part)
    config = json.loads((twice / 'adapter_config.json').read_text())
    (twice / 'adapter_config.json').write_text(json.dumps({**config, 'base_model_name_or_path': str(adapter)}))
    with pytest.raises(CheckpointError, match='is an adapter itself. Merge that one first'):
        ReasoningScorer(pretrained_model_path=twice)


def test_a_resumed_run_refuses_other_weights_and_labels(data, tmp_path):
    own = tmp_path / 'own'
    for name in ('images', 'vlm'):
        shutil.copytree(data / name, own / name)
    for name in ('meta.csv', 'texts.jsonl'):
        shutil.copy(data / name, own)
    options = write_options(own, tmp_path, grpo__max_steps=2, val__val_freq=None)
    train_grpo(options)
    shutil.rmtree(tmp_path / 'tiny' / 'models')
    (own / 'meta.csv').write_text((data / 'meta.csv').read_text().replace('90.9', '50.0'))
    with pytest.raises(OptionError, match='datasets: is no longer what .* was begun with'):
        train_grpo(options, auto_resume=True)
    shutil.copy(data / 'meta.csv', own)
    shutil.copy(next((data / 'random').glob('*.safetensors')), next((own / 'vlm').glob('*.safetensors')))
    with pytest.raises(OptionError, match='network: pretrained: is no longer what .* was begun with'):
        train_grpo(options, auto_resume=True)


def test_no_run_is_reported_over_the_network(data, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_TELEMETRY', False)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    asked = []
    monkeypatch.setattr(_telemetry, '_TELEMETRY_QUEUE', type('Queue', (), {'put': asked.append, 'join': None})())
    train_grpo(write_options(data, tmp_path, grpo__max_steps=1, val__val_freq=None))
    assert constants.HF_HUB_DISABLE_TELEMETRY and not asked


@pytest.mark.parametrize('part', ['vision', 'language'])
def test_one_tower_alone_is_trained(data, tmp_path, part):
    before = weights(data / 'vlm')
    options = write_options(data, tmp_path, network__train=part, grpo__max_steps=2, val__val_freq=None)
    after = weights(train_grpo(options).export)
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed and all(('visual' in name) == (part == 'vision') for name in changed)


def test_an_adapter_is_exported_alone_or_merged(data, tmp_path):
    (tmp_path / 'alone').mkdir()
    (tmp_path / 'merged').mkdir()
    alone = train_grpo(write_options(data, tmp_path / 'alone', **LORA)).export
    merged = train_grpo(write_options(data, tmp_path / 'merged', **{**LORA, 'export__merge': True})).export
    assert (Path(alone) / 'adapter_config.json').exists() and (Path(merged) / 'config.json').exists()
    pictures = [Image.open(data / 'images' / f'{number}.png') for number in range(3)]
    scores = [[each.rating for each in ReasoningScorer(pretrained_model_path=folder, max_new_tokens=16).describe(pictures)]
              for folder in (alone, merged)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_both_tasks_together(data, tmp_path):
    degraded = {'name': 'degraded', 'type': 'DegradationTable', 'dataroot_target': str(data / 'images'),
                'meta_info_file': str(data / 'degradations.csv')}
    found = train_grpo(write_options(data, tmp_path, datasets__train_2=degraded, rewards__degradation=1.0,
                                     datasets__train_1=table(data)))
    rows = read_csv(tmp_path / 'tiny' / 'log.csv')
    assert Path(found.export).exists() and any(row['rewards/degradation/mean'] for row in rows)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'grpo__num_generations': 3}, 'must be divisible by num_generations'),
    ({'grpo__per_device_train_batch_size': 64}, r'64 rollouts / num_generations 4 = 16 images .* hold 9'),
    ({'grpo__gradient_accumulation_steps': 2, 'grpo__num_iterations': 3}, 'save_checkpoint_freq: 2 is not a multiple'),
    ({'grpo__bf16': True}, 'bf16: true needs a GPU'), ({'grpo__max_completion_length': 12}, 'is too short: tags and answer'),
    ({'grpo__learning_rat': 1}, 'unknown key "learning_rat".* Did you mean "learning_rate"'),
    ({'grpo__output_dir': 'x'}, 'output_dir: is set by path'), ({'rewards__colour': 1}, 'rewards: unknown key "colour"'),
    ({'rewards': {'format': 0}}, 'at least one of these weights must be above 0'),
    ({'rewards__reader': 'x'}, 'reader: x is only for the reading reward'),
    ({'network__train': 'visoin'}, 'Did you mean "vision"'),
    ({'network__train': 'lora'}, 'network: lora: must be given'), ({'network__lora': {'r': 2}}, 'network: lora: must be given'),
    ({'network__train': 'lora', 'network__lora': {'rank': 2}}, 'keys are those of peft'),
    ({'datasets__train__mos_range': None}, 'mos_range: must be given'), ({'datasets': {}}, 'datasets: train: must be given'),
    ({'datasets__val': {'type': 'SyntheticNRDataset'}}, 'has no files'),
    ({'grpo__save_only_model': True}, 'save_only_model: True: a run that is interrupted'),
    ({'grpo__log_completions': True}, 'log_completions: is set by'), ({'grpo__learning_rate': 'abc'}, "'abc' must be a number"),
    ({'grpo__max_completion_length': None}, 'max_completion_length: must be a number'),
    ({'grpo__use_vllm': True}, 'vllm'), ({'grpo__deepspeed': {'zero_optimization': {'stage': 2}}}, 'grpo: .*deepspeed'),
    ({'val__val_freq': 0}, 'val: val_freq: 0 must be at least 1, or ~'),
    ({'rewards__degradation': 1.0}, '0 of 9 training images are'),
    ({'grpo__per_device_train_batch_size': 4}, 'rank: compares images, and a generation holds one'),
    ({'datasets__val__colour': 1}, 'unknown key "colour"'), ({'prompts__rating_range': [5, 1]}, 'rating_range')])
def test_what_cannot_work_is_refused_before_the_first_step(data, tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        train_grpo(write_options(data, tmp_path, **changes))
    assert not (tmp_path / 'tiny').exists()


def test_images_that_are_gone_are_named(data, tmp_path):
    with pytest.raises(DataError, match=r'9 of 12 images cannot be used:\n.*0.png: No such file'):
        train_grpo(write_options(data, tmp_path, datasets__train__dataroot_target=str(tmp_path)))


@pytest.fixture
def narrow(data, tmp_path):
    """A table with a picture that no Qwen-VL takes, one that is cut off, and good ones."""
    folder = tmp_path / 'narrow'
    folder.mkdir()
    for number in range(6):
        shutil.copy(data / 'images' / f'{number}.png', folder)
    Image.new('RGB', (900, 3)).save(folder / '2.png')
    (folder / '4.png').write_bytes((folder / '4.png').read_bytes()[:100])
    (folder / 'm.csv').write_text('image,mos\n' + ''.join(f'{number}.png,{10 * number}\n' for number in range(6)))
    return {**table(data), 'name': 'narrow', 'dataroot_target': str(folder), 'meta_info_file': str(folder / 'm.csv'),
            'split_index': None}


@pytest.mark.parametrize('kind', ['GRPO', 'SFT', 'RACT'])
def test_all_pictures_that_the_model_cannot_take_are_named_before_the_first_step(data, tmp_path, narrow, kind):
    if kind == 'GRPO':
        run = lambda: train_grpo(write_options(data, tmp_path, datasets__train=narrow))  # noqa: E731
    elif kind == 'SFT':
        texts = tmp_path / 'texts.jsonl'
        text = {'text': 'A.', 'seed': 0, 'model': 'm'}
        texts.write_text(''.join(json.dumps({'image': f'{number}.png', 'texts': [text]}) + '\n' for number in range(6)))
        path = sft_options_file(data, tmp_path, datasets__train={**narrow, 'reasoning_texts': str(texts)})
        run = lambda: train_sft(path)  # noqa: E731
    else:
        options = ract_options_file(data, tmp_path, datasets={'good': table(data), 'narrow': narrow})
        run = lambda: run_ract(options)  # noqa: E731
    with pytest.raises(DataError) as raised:
        run()
    lines = str(raised.value).splitlines()
    assert lines[0].startswith('2 of ') and lines[0].endswith('images cannot be used:') and len(lines) == 4
    assert '2.png: it is 900 x 3 pixels' in lines[1] and 'aspect ratio' in lines[1] and '4.png: ' in lines[2]
    assert not (tmp_path / 'tiny').exists() and not (tmp_path / 'ract').exists()


def test_validation_on_training_images_is_refused_or_counted(data, tmp_path):
    leaking = {**table(data), 'split_index': None}
    with pytest.raises(DataError, match=r'datasets: val: 9 of 12 test images were trained on: .*0.png.* val: overlap: count'):
        train_grpo(write_options(data, tmp_path, datasets__val=leaking, val__max_images=None))
    train_grpo(write_options(data, tmp_path, datasets__val=leaking, val__max_images=None, val__overlap='count',
                             grpo__max_steps=2))
    assert json.loads((tmp_path / 'tiny' / 'overlap.json').read_text())['val']['trained_on'] == 9
    section = reasoning_section(tmp_path / 'tiny', 'x')
    assert any('9 of 12' in str(row) for part in section.sections for block in part.blocks
               for row in getattr(block, 'rows', ()))
    written = tmp_path / 'tiny' / 'options.yml'
    written.write_text(written.read_text().replace('overlap: count', 'overlap: fail'))
    with pytest.raises(DataError, match='9 of 12 test images of val were trained on'):
        reasoning_section(tmp_path / 'tiny', 'x')


def test_an_export_remembers_its_images_and_those_of_its_start(data, tmp_path, capsys):
    from pyiqa_rali.__main__ import main as command
    trained = Path(train_grpo(write_options(data, tmp_path, grpo__max_steps=2)).export)
    start, record = record_beside(data / 'vlm'), record_beside(trained)
    names = [str(data / 'images' / f'{number}.png') for number in range(12)]
    expected = [name for number, name in enumerate(names) if number % 4 != 3]
    assert list(start.among(names)) == expected and start.unrecorded == [str(data / 'random')]
    assert list(record.among(names)) == expected and record.sets == {'cold': 9, 'tiny': 9}
    assert record.unrecorded == start.unrecorded
    assert command(['info', str(trained)]) == 0
    assert 'training_images: 9 (9 of cold, 9 of tiny); and those of' in capsys.readouterr().out
    assert ReasoningScorer(pretrained_model_path=trained).training_images.sets == record.sets
    (trained / 'pyiqa_rali_training_images.json').unlink()
    assert ReasoningScorer(pretrained_model_path=trained).training_images is None


@pytest.mark.parametrize(('rows', 'message'), [
    ([['image', 'severity'], ['0.png', 'slight']], 'has no column distortion_class'),
    ([['image', 'distortion_class', 'severity'], ['0.png', 'fog', 'slight']], 'line 2: fog, slight; classes are')])
def test_degradation_tables_that_cannot_be_used(data, tmp_path, rows, message):
    with open(tmp_path / 'bad.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows(rows)
    bad = {'name': 'bad', 'type': 'DegradationTable', 'dataroot_target': str(data / 'images'),
           'meta_info_file': str(tmp_path / 'bad.csv')}
    with pytest.raises(DataError, match=message):
        train_grpo(write_options(data, tmp_path, datasets__train=bad))


def sft_options_file(data, folder, **changes):
    sft = {'max_steps': 4, 'per_device_train_batch_size': 4, 'learning_rate': 1e-3, 'disable_tqdm': True}
    path = write_options(data, folder, model_type='SFT', sft=sft, val__val_freq=None,
                         **{'datasets__train__reasoning_texts': str(data / 'texts.jsonl'), **changes})
    values = yaml.safe_load(Path(path).read_text())
    for key in ('rewards', 'grpo'):
        values.pop(key)
    Path(path).write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize('changes', [{'network__train': 'vision'}, {'with_scores': False}, LORA])
def test_supervised_fine_tuning(data, tmp_path, changes):
    options = sft_options_file(data, tmp_path, network__pretrained=str(data / 'random'), **changes)
    with pytest.warns(UserWarning, match="not in this language model's own style"):
        found = train_sft(options)
    log = [float(row['loss']) for row in read_csv(tmp_path / 'tiny' / 'log.csv')]
    assert len(log) == 4 and all(np.isfinite(log)) and min(log) > 0
    net = ReasoningScorer(pretrained_model_path=found.export, max_new_tokens=8)
    assert net.score_range == '1, 5' and net.card.with_rating == changes.get('with_scores', True)


def test_runs_are_started_from_options_made_in_python(data, tmp_path):
    for name in ('file', 'object', 'sft'):
        (tmp_path / name).mkdir()
    of_file = train_grpo(write_options(data, tmp_path / 'file', grpo__max_steps=1, val__val_freq=None))
    read = grpo_options(read_yaml(write_options(data, tmp_path / 'object', grpo__max_steps=1, val__val_freq=None)))
    options = GrpoOptions(name=read.name, manual_seed=read.manual_seed, datasets=read.datasets, network=read.network,
                          prompts=read.prompts, rewards=read.rewards, grpo=read.grpo, path=read.path, val=read.val,
                          logger=read.logger, export=read.export)
    found = train_grpo(options)
    assert same(found.export, of_file.export) and (found.before, found.after) == (None, None)
    assert found.folder == tmp_path / 'object' / 'tiny' and found.export == found.folder / 'models' / 'reasoning'
    values = read_yaml(sft_options_file(data, tmp_path / 'sft', sft__max_steps=1))
    values = {name: value for name, value in values.items() if name not in ('network', 'path', 'val', 'logger', 'prompts')}
    tuned = train_sft(SftOptions(**{**values, 'with_scores': False, 'network': read.network, 'path': read.path, 'name': 'sft',
                                    'val': ReasoningValOptions()}))
    assert read_card(tuned.export).with_rating is False


def test_supervised_fine_tuning_resumes_to_the_same_weights(data, tmp_path):
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'stopped').mkdir()
    whole = train_sft(sft_options_file(data, tmp_path / 'whole')).export
    options = sft_options_file(data, tmp_path / 'stopped')
    train_sft(options)
    root = tmp_path / 'stopped' / 'tiny'
    (root / 'models' / 'reasoning').rename(root / 'first')
    (root / 'checkpoints' / 'checkpoint-4' / 'trainer_state.json').unlink()  # as if killed while it was written
    assert same(whole, train_sft(options, auto_resume=True).export)


def test_texts_are_needed_for_supervision(data, tmp_path):
    with pytest.raises(OptionError, match='reasoning_texts: must name a JSON-lines file'):
        train_sft(sft_options_file(data, tmp_path, datasets__train={**table(data)}))


def test_whether_ratings_are_trained_is_said_once(data, tmp_path):
    with pytest.raises(OptionError, match='prompts: with_rating: False contradicts with_scores: True'):
        train_sft(sft_options_file(data, tmp_path, prompts__with_rating=False))
    with pytest.raises(OptionError, match='prompts: with_rating: False is for models that were trained on texts alone'):
        train_grpo(write_options(data, tmp_path, prompts__with_rating=False))


def ract_options_file(data, folder, **changes):
    written = write_options(data, folder, grpo__max_steps=2, prompts__system_prompt='Judge it.')
    teacher = yaml.safe_load(Path(written).read_text())
    (folder / 'teacher.yml').write_text(yaml.safe_dump(teacher))
    student = {'with_scores': False, 'network': {'pretrained': 'first teacher', 'train': 'vision'},
               'prompts': teacher['prompts'], 'logger': teacher['logger'],
               'sft': {'max_steps': 2, 'per_device_train_batch_size': 4, 'disable_tqdm': True}}
    values = {'name': 'ract', 'model_type': 'RACT', 'manual_seed': 0, 'datasets': {'one': table(data), 'two': table(data)},
              'teacher': str(folder / 'teacher.yml'), 'student': student, 'path': {'experiments_root': str(folder)},
              'texts': {'texts_per_image': 1, 'max_new_tokens': 48, 'attempts': 40}, **changes}
    (folder / 'ract.yml').write_text(yaml.safe_dump(values))
    return str(folder / 'ract.yml')


def test_ract_in_one_run_and_step_by_step(data, tmp_path):
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'steps').mkdir()
    whole = run_ract(ract_options_file(data, tmp_path / 'whole')).student.export
    for step in ('teach', 'write', 'tune'):
        found = run_ract(ract_options_file(data, tmp_path / 'steps', steps=[step]))
    more = {'texts': {'texts_per_image': 1, 'max_new_tokens': 48, 'attempts': 41}}
    run_ract(ract_options_file(data, tmp_path / 'steps', steps=['write'], **more))  # what the advice of an error says
    more['texts']['temperature'] = 0.5
    with pytest.raises(OptionError, match='the options differ .* in "texts": temperature: was 1.0, is 0.5'):
        run_ract(ract_options_file(data, tmp_path / 'steps', steps=['write'], **more))
    assert same(whole, found.student.export)
    root = tmp_path / 'whole' / 'ract'
    assert {path.name for path in (root / 'texts').glob('*.jsonl')} == {'one.jsonl', 'two.jsonl'}
    before, after = weights(root / 'teacher_one' / 'models' / 'reasoning'), weights(whole)
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed and all('visual' in name for name in changed)
    card = ReasoningScorer(pretrained_model_path=whole, max_new_tokens=8).card
    assert card.prompt().question == 'Rate it from 1 to 5.' and not card.with_rating  # it learned from texts alone
    assert card.system_prompt == 'Judge it.' == read_card(root / 'teacher_one' / 'models' / 'reasoning').system_prompt
    assert json.loads((root / 'texts' / 'one.jsonl.json').read_text())['settings']['system_prompt'] == 'Judge it.'


def test_two_processes_archive_an_earlier_run_once(data, tmp_path):
    (tmp_path / 'ract').mkdir()
    (tmp_path / 'ract' / 'earlier').touch()
    returned, errors = in_two_processes(ract_options_file(data, tmp_path, steps=['teach']))
    assert returned == 0, errors[-3000:]
    archives = list(tmp_path.glob('ract_archived_*'))
    assert [list(archive.iterdir()) for archive in archives] == [[archives[0] / 'earlier']]
    for name in ('one', 'two'):
        teacher = tmp_path / 'ract' / f'teacher_{name}' / 'models' / 'reasoning'
        assert ReasoningScorer(pretrained_model_path=teacher, max_new_tokens=8)


def test_texts_are_written_by_one_process(data, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(OptionError, match=r'steps: .* write is for one process, and there are 2. .*force_yml steps=\[write\]'):
        run_ract(ract_options_file(data, tmp_path))
    assert not (tmp_path / 'ract').exists()


@pytest.mark.parametrize(('changes', 'error', 'message'), [
    ({'steps': ['teech']}, OptionError, 'Did you mean "teach"'), ({'steps': ['tune', 'write']}, OptionError, 'in this order'),
    ({'datasets': {}}, OptionError, 'datasets: must hold at least one'),
    ({'steps': ['write']}, CheckpointError, 'Run the step before'),
    ({'steps': ['tune']}, CheckpointError, 'Run the step before'), ({'texts': {'colour': 1}}, OptionError, 'unknown key')])
def test_ract_that_cannot_work(data, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_ract(ract_options_file(data, tmp_path, **changes))


def test_options_of_teachers_and_student_are_checked_before_the_first_step(data, tmp_path):
    options = yaml.safe_load(Path(ract_options_file(data, tmp_path)).read_text())
    student = {**options['student'], 'sft': {'lerning_rate': 1e-3}}
    with pytest.raises(OptionError, match='student: sft: unknown key "lerning_rate"'):
        run_ract(ract_options_file(data, tmp_path, student=student))
    wrong = yaml.safe_load((tmp_path / 'teacher.yml').read_text())
    (tmp_path / 'wrong.yml').write_text(yaml.safe_dump({**wrong, 'grpo': {'lerning_rate': 1e-3}}))
    with pytest.raises(OptionError, match='teacher: .*wrong.yml: grpo: unknown key "lerning_rate"'):
        run_ract(ract_options_file(data, tmp_path, teacher=str(tmp_path / 'wrong.yml')))
    assert not (tmp_path / 'ract').exists()
