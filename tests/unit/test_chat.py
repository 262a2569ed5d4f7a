"""What a model sees: the system message that is given, the chat template's own, or none, in asking and in training alike."""

import json
from pathlib import Path

import pytest
import trl
from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.training.vlm.options import grpo_options, sft_options
from pyiqa_rali.vlm.chat import rendered_chat, template_system_message, training_messages_of, what_is_asked
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.prompts import CARD_FILE, Prompt, ReasoningCard, read_card
from pyiqa_rali.vlm.tables import Row, training_set
from tests.tiny import tiny_vlm

TEMPLATES = Path(trl.__file__).parent / 'chat_templates'  # TRL ships those of the models it trains, as they are published
USER = '<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Rate it.<|im_end|>\n<|im_start|>assistant\n'
OWN = 'You are a helpful assistant.'


def system(text):
    return f'<|im_start|>system\n{text}<|im_end|>\n'


@pytest.fixture(scope='module')
def processor(tmp_path_factory):
    return load_vlm(tiny_vlm(tmp_path_factory.mktemp('vlm') / 'tiny')).processor


@pytest.fixture(params=['qwen2_5_vl', 'qwen3_vl', 'tiny'])
def family(request, processor, monkeypatch):
    """The name of a model's family; the processor renders its chats meanwhile."""
    if request.param != 'tiny':
        template = (TEMPLATES / f'{request.param}.jinja').read_text(encoding='utf-8')
        monkeypatch.setattr(processor, 'chat_template', template)
    return request.param


def test_a_system_prompt_stands_word_for_word(family, processor):
    assert rendered_chat(processor, Prompt('Rate it.', 'Judge {it}.')) == system('Judge {it}.') + USER


def test_without_one_the_template_decides(family, processor):
    own = OWN if family == 'qwen2_5_vl' else None
    assert rendered_chat(processor, Prompt('Rate it.')) == (system(OWN) if own else '') + USER
    assert template_system_message(processor) == own
    found = what_is_asked(processor, Prompt('Rate it.'))
    assert found['system_prompt'] == own and found['chat'] == rendered_chat(processor, Prompt('Rate it.'))
    assert found['system_prompt_from'].startswith("the chat template's own default" if own else 'none: the chat template')


def test_what_is_asked_names_what_was_given(family, processor):
    found = what_is_asked(processor, Prompt('Rate it.', 'Judge it.'))
    assert found['system_prompt'] == 'Judge it.' and found['system_prompt_from'].startswith('the option system_prompt')


@pytest.mark.parametrize('prompt', [Prompt('Rate it.'), Prompt('Rate it.', 'Judge it.')], ids=['without', 'with'])
def test_training_asks_what_scoring_asks(family, processor, prompt):
    trained = prepare_multimodal_messages(training_messages_of(prompt), [Image.new('RGB', (32, 32))])
    rendered = processor.apply_chat_template(trained, add_generation_prompt=True, tokenize=False)
    assert rendered == rendered_chat(processor, prompt)


@pytest.mark.parametrize(('template', 'message'), [
    ("{{ raise_exception('roles must alternate') }}", r'takes no system message \(roles must alternate\)'),
    ('{{ messages[-1].content[1].text }}', 'leaves the system message out')])
def test_templates_without_system_messages_say_so(processor, monkeypatch, template, message):
    monkeypatch.setattr(processor, 'chat_template', template)
    with pytest.raises(OptionError, match=f'system_prompt: .*{message}.*beginning of score_prompt'):
        rendered_chat(processor, Prompt('Rate it.', 'Judge it.'))


def test_a_template_that_refuses_system_messages_has_none_of_its_own(processor, monkeypatch):
    monkeypatch.setattr(processor, 'chat_template',
                        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}Q")
    assert template_system_message(processor) is None and rendered_chat(processor, Prompt('Rate it.')) == 'Q'


def test_the_card_carries_it(tmp_path):
    ReasoningCard(system_prompt='Judge it.').save(tmp_path)
    assert read_card(tmp_path).prompt().system == 'Judge it.'
    assert json.loads((tmp_path / CARD_FILE).read_text())['format_version'] == 2  # versions that know none must not read it


def test_a_card_without_it_is_what_it_was(tmp_path):
    ReasoningCard().save(tmp_path)
    values = json.loads((tmp_path / CARD_FILE).read_text())
    assert values['format_version'] == 1 and 'system_prompt' not in values and read_card(tmp_path).prompt().system is None
    (tmp_path / CARD_FILE).write_text(json.dumps({**values, 'format_version': 3}))
    with pytest.raises(CheckpointError, match='has format 3; this version reads 1 and 2'):
        read_card(tmp_path)


def test_an_empty_system_prompt_is_refused():
    with pytest.raises(OptionError, match="system_prompt: ' ' is empty. Leave it out"):
        ReasoningCard(system_prompt=' ')


def test_option_files_have_it():
    values = {'name': 'a', 'manual_seed': 0, 'datasets': {'train': {}}, 'network': {'pretrained': 'm'},
              'prompts': {'system_prompt': 'Judge it.'}}
    grpo = grpo_options({**values, 'rewards': {'score': 1.0}, 'grpo': {}})
    sft = sft_options({**values, 'sft': {}})
    assert grpo.prompts.prompt().system == sft.prompts.prompt('degradation').system == 'Judge it.'


@pytest.mark.parametrize('task', ['score', 'degradation'])
def test_option_files_with_prompts_that_cannot_be_filled_in_are_refused_when_they_are_read(task):
    values = {'name': 'a', 'manual_seed': 0, 'datasets': {'train': {}}, 'network': {'pretrained': 'm'},
              'prompts': {f'{task}_prompt': 'From {lowest}?'}}
    for read, more in ((grpo_options, {'rewards': {'score': 1.0}, 'grpo': {}}), (sft_options, {'sft': {}})):
        with pytest.raises(OptionError, match=f'prompts: {task}_prompt: .* cannot be filled in'):
            read({**values, **more})


@pytest.mark.parametrize('system_prompt', [None, 'Judge it.'])
def test_training_sets_begin_with_it(tmp_path, system_prompt):
    Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    rows = [Row(str(tmp_path / 'a.png'), 'd', task, mos=3.0) for task in ('score', 'degradation')]
    card = ReasoningCard(system_prompt=system_prompt)
    for row, item in zip(rows, training_set(rows, card, ['x', 'y']), strict=True):
        assert item['prompt'] == training_messages_of(card.prompt(row.task))
        assert (item['prompt'][0] == {'role': 'system', 'content': 'Judge it.'}) == (system_prompt is not None)
