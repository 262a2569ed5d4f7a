"""The layouts of published reasoning models (Q-Insight, VisualQuality-R1), with tiny models in them."""

import json
import re
import shutil
import warnings

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image

import pyiqa_rali  # noqa: F401 (its metrics)
from pyiqa_rali.__main__ import main
from pyiqa_rali.core import hub
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.vlm import generation
from pyiqa_rali.vlm import loading as vlm
from pyiqa_rali.vlm.decoding import Sampling
from pyiqa_rali.vlm.prompts import CARD_FILE, FORMAT_WITH_SYSTEM, ReasoningCard, read_card
from pyiqa_rali.vlm.scorer import ReasoningScorer
from tests.legacy_layouts import to_legacy_qwen
from tests.tiny import tiny_vlm

PUBLISHED = {'qinsight': 'ByteDance/Q-Insight:score_degradation', 'visualquality-r1': 'TianheWu/VisualQuality-R1-7B'}
OPTIONS = {'max_new_tokens': 4, 'device': torch.device('cpu'), 'dtype': 'float32'}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    modern = tiny_vlm(tmp_path_factory.mktemp('modern') / 'tiny')
    return modern, to_legacy_qwen(shutil.copytree(modern, tmp_path_factory.mktemp('legacy') / 'tiny'))


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_layout_gives_the_scores_of_its_weights(folders, name):
    modern, legacy = folders
    metric = pyiqa.create_metric(name, pretrained_model_path=legacy, **OPTIONS)
    assert metric.score_range == '1, 5' and metric.lower_better is False  # the metric's own: the folder has no card
    score = metric(picture()).item()
    assert 1 <= score <= 5
    reference = ReasoningScorer(pretrained_model_path=modern, max_new_tokens=4, dtype='float32',
                                score_prompt=metric.net.card.score_prompt)
    with torch.no_grad():
        for parameter, own in zip(reference.model.parameters(), metric.net.model.parameters(), strict=False):
            assert parameter.shape == own.shape and torch.equal(parameter.to(torch.bfloat16), own.to(torch.bfloat16))
            parameter.copy_(own)
    assert reference.describe([picture()])[0].rating == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_metric_asks_the_hub_for_the_published_folder(folders, name, monkeypatch):
    asked = []

    def from_hub(source, choices, revision=None, **options):
        asked.append(source)
        return folders[1]

    monkeypatch.setattr(vlm, 'from_hub', from_hub)
    pyiqa.create_metric(name, **OPTIONS)
    assert asked == [PUBLISHED[name]]


def test_a_download_that_was_cut_short_is_not_taken(folders, tmp_path):
    part = shutil.copytree(folders[1], tmp_path / 'part')
    assert vlm._is_whole(folders[0]) and vlm._is_whole(part)
    (part / 'model-00002-of-00002.safetensors').unlink()
    assert not vlm._is_whole(part)
    (part / 'config.json').unlink()
    assert not vlm._is_whole(part)


def test_a_missing_shard_and_lost_weights_are_named(folders, tmp_path):
    part = shutil.copytree(folders[1], tmp_path / 'part')
    (part / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(CheckpointError, match='model-00002-of-00002'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ReasoningScorer(pretrained_model_path=part, rating_range=[1, 5])


def test_hub_names():
    assert all(hub.is_hub_name(name) for name in PUBLISHED.values())
    assert not any(hub.is_hub_name(name) for name in ('./a/b', '/a/b', '~/a', 'a', 'a/b/c'))


PROMPTS = {'qinsight': 'score_prompt: From {low} to {high}?\nsystem_prompt: Judge it.\n',
           'visualquality-r1': 'prompts:\n  score_prompt: From {low} to {high}?\n'}
NOTES = {'qinsight': (r'qinsight: score_prompt and system_prompt are not given, .* will not be the published ones\. The '
                      r'published prompts are in src/eval/demo_score.py of the GitHub repository bytedance/Q-Insight: '),
         'visualquality-r1': r'visualquality-r1: score_prompt is not given, .* in README.md of the GitHub repository TianheWu/'}


def made(name, folder, **options):
    """Make a metric, and return it with the warnings of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        metric = pyiqa.create_metric(name, pretrained_model_path=folder, **{**OPTIONS, **options})
    return metric.net, [str(each.message) for each in caught if 'published ones' in str(each.message)]


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_model_that_is_asked_in_other_words_says_so_once(folders, name):
    notes = made(name, folders[1])[1]
    assert len(notes) == 1 and re.match(NOTES[name], notes[0]) and notes[0].endswith('and give prompts="FILE.yml".')
    notes = made(name, folders[0])[1]  # this folder has a card, with a score prompt only
    told = ['qinsight: system_prompt is not given'] if name == 'qinsight' else []
    assert [note.partition(',')[0] for note in notes] == told
    assert not made(name, folders[0], **({'system_prompt': 'Judge it.'} if name == 'qinsight' else {}))[1]


def test_a_card_with_both_prompts_gives_them(folders, tmp_path):
    copy = shutil.copytree(folders[0], tmp_path / 'with_both')
    card = json.loads((copy / CARD_FILE).read_text())
    (copy / CARD_FILE).write_text(json.dumps({**card, 'system_prompt': 'Judge it.', 'format_version': FORMAT_WITH_SYSTEM}))
    net, notes = made('qinsight', copy)
    assert not notes and net.card.system_prompt == 'Judge it.'


@pytest.mark.parametrize('name', PUBLISHED)
def test_prompts_come_from_a_file(folders, tmp_path, name):
    (tmp_path / 'prompts.yml').write_text(PROMPTS[name])
    net, notes = made(name, folders[1], prompts=tmp_path / 'prompts.yml')
    assert not notes and net.card.prompt().question == 'From 1.0 to 5.0?'
    assert net.card.system_prompt == ('Judge it.' if name == 'qinsight' else None)
    assert net.info['chat'].startswith('<|im_start|>system\nJudge it.' if name == 'qinsight' else '<|im_start|>user')


def test_what_is_left_out_of_the_prompts_is_named(folders):
    _, notes = made('qinsight', folders[1], system_prompt='Judge it.')
    assert notes[0].startswith('qinsight: score_prompt is not given')
    assert not made('qinsight', folders[1], system_prompt='Judge it.', score_prompt='Rate it.')[1]


@pytest.mark.parametrize(('content', 'options', 'message'), [
    ('colour: red', {}, 'prompts: .*unknown key "colour"'), ('score_prompt: 3', {}, 'score_prompt'),
    ('score_prompt: "{colour}"', {}, 'cannot be filled in'), (None, {}, 'prompts: .*prompts.yml is not a file'),
    ('score_prompt: A', {'score_prompt': 'B'}, "score_prompt: is 'B' as an argument and 'A' in prompts")])
def test_prompt_files_that_cannot_be_used(folders, tmp_path, content, options, message):
    if content is not None:
        (tmp_path / 'prompts.yml').write_text(content)
    with pytest.raises(OptionError, match=message):
        made('qinsight', folders[0], prompts=tmp_path / 'prompts.yml', **options)


@pytest.mark.parametrize(('content', 'message'), [
    ('colour: red', 'unknown key "colour"'), ('score_prompt: "{colour}"', 'cannot be filled in'),
    ('rating_range: [5, 1]', 'must be'),
    ('score_prompt: Answer as {"rating": 3}.', 'not valid YAML(.|\n)*A text with a colon .* below "key: .-"'),
    (None, 'prompts.yml is not a file')])
def test_faults_of_prompts_are_told_before_a_model_is_looked_for(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.setattr(vlm, 'from_hub', lambda *arguments, **options: pytest.fail('looked for'))
    monkeypatch.setattr(vlm, 'locate_vlm', lambda *arguments: pytest.fail('looked for'))
    path = tmp_path / 'prompts.yml'
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=message):
        pyiqa.create_metric('qinsight', device='cpu', prompts=str(path))
    picture().save(tmp_path / 'a.png')
    for command in (['describe', str(tmp_path / 'a.png'), '--model', 'qinsight'], ['info', 'qinsight'],
                    ['write-texts', str(tmp_path / 'a.png'), '--model', 'qinsight', '--out', str(tmp_path / 't.jsonl')]):
        assert main([*command, '--prompts', str(path)]) == 2
        assert re.search(message, capsys.readouterr().err), command


JSON_PROMPT = """score_prompt: |-
  Rate it from {low:g} to {high:g}. Answer as {"rating": <number>, "detail": {"noise": 3}}, for example {"{key}": {example}}.
"""


def test_the_braces_of_json_stand_as_they_are(folders, tmp_path):
    (tmp_path / 'prompts.yml').write_text(JSON_PROMPT)
    net, _ = made('visualquality-r1', folders[1], prompts=tmp_path / 'prompts.yml')
    assert net.card.prompt().question == ('Rate it from 1 to 5. Answer as {"rating": <number>, "detail": {"noise": 3}}, for '
                                          'example {"rating": 3.42}.')
    net.card.save(tmp_path)
    assert read_card(tmp_path).prompt() == net.card.prompt()


@pytest.mark.parametrize(('template', 'expected'), [
    ('{{"{key}": {example}}}', '{"rating": 3.42}'), ('{"rating": 3}', '{"rating": 3}'), ('a { b } c', 'a { b } c'),
    ('{ "a": [{"b": 1}] } {low}', '{ "a": [{"b": 1}] } 1.0'), ('{"rating": {low}}', '{"rating": 1.0}'),
    ('<{high:.2f}>', '<5.00>')])
def test_templates_that_can_be_filled_in(template, expected):
    assert ReasoningCard(score_prompt=template).prompt().question == expected


@pytest.mark.parametrize('template', ['{lowest}', '{}', '{0}', '{low.x}', '{"a": {lowest}}', '{{"a": 1}} or {"b": 2}',
                                      '{low:zz}'])
def test_templates_with_fields_that_are_not_known(template):
    with pytest.raises(OptionError, match='cannot be filled in .* all other braces twice, or, as in JSON, all of them once'):
        ReasoningCard(score_prompt=template).prompt()


def test_a_folder_without_images_ends_as_it_does_in_score(folders, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert main(['describe', str(tmp_path / 'empty'), '--model', str(folders[0]), '--rating-range', '1', '5']) == 1
    assert f'NO IMAGE in {tmp_path / "empty"}' in capsys.readouterr().err


@pytest.mark.parametrize(('name', 'decoding', 'longest'), [
    ('qinsight', {'temperature': 1.0, 'top_k': 50, 'top_p': 0.95, 'repetition_penalty': 1.05}, 1024),
    ('visualquality-r1', {'temperature': 0.25, 'top_k': 50, 'top_p': 1.0, 'repetition_penalty': 1.05}, 2048)])
def test_the_releases_decode_as_published(folders, monkeypatch, name, decoding, longest):
    net, _ = made(name, folders[1], mode='release', max_new_tokens=None)
    net.model.generation_config.update(temperature=0.25, repetition_penalty=1.05)  # what the releases leave to the checkpoint
    assert net.info['decoding'] == decoding and net.info['max_new_tokens'] == longest
    asked = []

    def complete(reasoner, pictures, prompt, max_new_tokens, seeds, sampling):
        asked.append((len(pictures), max_new_tokens, sampling.with_values_of(reasoner.model.generation_config)))
        return [reasoner.processor.tokenizer.encode('<think>A.</think><answer>3.5</answer>') for _ in pictures]
    monkeypatch.setattr(generation, 'complete', complete)
    assert [each.rating for each in net.describe([picture()] * 3)] == [3.5] * 3
    assert asked == [(3, longest, Sampling(**decoding))]


def test_releases_are_for_published_models(folders):
    with pytest.raises(OptionError, match='mode: release: .* for the metrics qinsight and visualquality-r1'):
        ReasoningScorer(pretrained_model_path=folders[0], mode='release')
    with pytest.raises(OptionError, match='temperature: 0.5 contradicts mode: release.* mode: mean with num_samples: 1'):
        made('qinsight', folders[0], mode='release', temperature=0.5)
    with pytest.raises(OptionError, match='release: "qinsigt" is not one of .*Did you mean "qinsight"'):
        made('qinsight', folders[0], release='qinsigt')


def test_other_modes_decode_as_ever(folders):
    net, _ = made('qinsight', folders[0], mode='mean', max_new_tokens=None)
    assert net.info['decoding'] == {'temperature': 1.0, 'top_k': None, 'top_p': None, 'repetition_penalty': 1.0}
    assert net.info['max_new_tokens'] == 512 and made('qinsight', folders[0])[0].info['decoding'] == 'greedy'


def test_info_shows_what_will_be_asked(folders, tmp_path, capsys):
    assert main(['info', str(folders[0])]) == 0
    shown = capsys.readouterr().out
    assert 'system_prompt_from: none: the chat template puts in no message' in shown and 'Rate it from 1 to 5.' in shown
    (tmp_path / 'prompts.yml').write_text(PROMPTS['qinsight'])
    given = ['--rating-range', '0', '10', '--prompts', str(tmp_path / 'prompts.yml')]
    assert main(['info', str(folders[1]), *given, '--json']) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['system_prompt'] == 'Judge it.' and 'From 0.0 to 10.0?' in shown['chat']
    assert main(['info', str(folders[1])]) == 2
    assert 'does not say on which scale it rates' in capsys.readouterr().err


@pytest.mark.parametrize('name', PUBLISHED)
def test_info_of_a_published_model_that_is_not_here(capsys, name):
    assert main(['info', name, '--json']) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown['model'] == PUBLISHED[name] and 'not in the cache' in shown['chat']
    assert shown['release']['decoding (mode: release)']['top_k'] == 50
    assert 'GitHub repository' in shown['release']['prompts']


def test_info_asks_nothing_of_other_checkpoints(capsys):
    assert main(['info', 'rali-lite', '--prompts', 'a.yml']) == 2
    assert '--prompts: rali-lite is not a reasoning model' in capsys.readouterr().err


def test_commands_know_the_published_models(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vlm, 'from_hub', lambda source, choices, revision=None, **options: folders[1])
    picture().save(tmp_path / 'a.png')
    longest = []

    def complete(reasoner, pictures, prompt, max_new_tokens, seeds, sampling):
        longest.append((max_new_tokens, sampling.top_k, prompt.system))
        return [reasoner.processor.tokenizer.encode('<think>A.</think><answer>3.5</answer>') for _ in pictures]
    monkeypatch.setattr(generation, 'complete', complete)
    describe = ['describe', str(tmp_path / 'a.png'), '--model', 'qinsight', '--json', '--system-prompt', 'Judge it.']
    assert main([*describe, '--mode', 'release']) == 0 and main([*describe, '--mode', 'release', '--max-new-tokens', '9']) == 0
    assert main([*describe, '--mode', 'mean', '--num-samples', '1']) == 0
    assert longest == [(1024, 50, 'Judge it.'), (9, 50, 'Judge it.'), (512, None, 'Judge it.')]
    assert json.loads(capsys.readouterr().out.splitlines()[0])['rating'] == 3.5
