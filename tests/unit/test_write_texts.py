"""Writing texts: resumable to the byte, duplicates and unparsable ones tried again, nothing made up."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli.write_texts import files_of
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
from pyiqa_rali.vlm import write_texts as module
from pyiqa_rali.vlm.generation import placeholder_tokens
from pyiqa_rali.vlm.loading import identity, load_vlm, load_without_weights
from pyiqa_rali.vlm.tables import read_picture
from pyiqa_rali.vlm.vllm_backend import pixel_bounds
from pyiqa_rali.vlm.write_texts import WritingOptions, write_texts
from tests.tiny import tiny_vlm

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def reasoner(tmp_path_factory):
    return load_vlm(tiny_vlm(tmp_path_factory.mktemp('vlm') / 'tiny'))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / 'images' / f'{number}.png')
    return sorted((tmp_path / 'images').iterdir())


@pytest.fixture
def writing(monkeypatch, reasoner):
    """Completions by the seed alone, some unparsable and many alike, since random weights write nothing that parses."""
    def complete(reasoner, pictures, prompt, max_new_tokens, seeds, sampling):
        texts = [f'<think>It is {seed % 7}.</think><answer>{{"rating": 3}}</answer>' if seed % 5 else 'nothing'
                 for seed in seeds]
        return [reasoner.processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    monkeypatch.setattr(module, 'complete', complete)


OPTIONS = WritingOptions(texts_per_image=3, batch_size=2, max_new_tokens=40)


def test_every_image_gets_its_texts(tmp_path, reasoner, images, writing):
    report = write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    found = load_reasoning_texts(tmp_path / 'texts.jsonl')
    assert list(found) == [image.name for image in images] and all(len(texts) == 3 for texts in found.values())
    assert (report.images, report.texts, report.short) == (5, 15, []) and report.unparsed > 0 and report.repeated > 0
    assert {text.model for texts in found.values() for text in texts} == {identity(reasoner.folder)}
    assert json.loads((tmp_path / 'texts.jsonl.json').read_text())['settings']['prompt'] == 'Rate it from 1 to 5.'


def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path, reasoner, images, writing, monkeypatch):
    write_texts(reasoner, images, tmp_path / 'whole.jsonl', OPTIONS)
    calls, work = [], module.complete

    def killed(*arguments):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return work(*arguments)
    monkeypatch.setattr(module, 'complete', killed)
    with pytest.raises(KeyboardInterrupt):
        write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    assert not (tmp_path / 'texts.jsonl').exists()
    with open(tmp_path / 'texts.jsonl.part', 'a') as stream:
        stream.write('{"image": "half')  # what a kill leaves
    monkeypatch.setattr(module, 'complete', work)
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    assert (tmp_path / 'texts.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert not (tmp_path / 'texts.jsonl.part').exists()
    assert write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS).texts == 15  # all done already


def test_other_settings_are_refused(tmp_path, reasoner, images, writing):
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    with pytest.raises(OptionError, match='begun with another temperature: 1.0, now 0.5'):
        write_texts(reasoner, images, tmp_path / 'texts.jsonl', replace(OPTIONS, temperature=0.5))


def with_weights(folder, content):
    folder.mkdir(parents=True)
    (folder / 'model.safetensors').write_bytes(content)
    return folder


def test_a_model_is_named_by_its_place_and_its_weights(tmp_path, reasoner):
    assert re.fullmatch('tiny@[0-9a-f]{12}', identity(reasoner.folder))
    names = [identity(with_weights(tmp_path / place, content)) for place, content in (
        ('one/models/reasoning', b'a'), ('two/models/reasoning', b'b'), ('Qwen', b'a'),
        (f'hub/models--owner--name-7B/snapshots/{"0" * 40}/score', b'a'))]
    places, digests = zip(*(name.split('@') for name in names), strict=True)
    assert places == ('one/models/reasoning', 'two/models/reasoning', 'Qwen', 'owner/name-7B:score')
    assert digests[0] == digests[2] == digests[3] != digests[1]


def test_the_model_below_an_adapter_belongs_to_its_name(tmp_path):
    adapter = with_weights(tmp_path / 'adapter', b'a')
    (adapter / 'adapter_config.json').write_text(json.dumps({'base_model_name_or_path': str(tmp_path / 'base')}))
    base = with_weights(tmp_path / 'base', b'b')
    (base / 'config.json').write_text('{}')
    before = identity(adapter)
    (base / 'model.safetensors').write_bytes(b'c')
    assert before.startswith('adapter@') and identity(adapter) != before


def test_texts_of_other_weights_in_the_same_place_are_refused(tmp_path, images, writing):
    reasoner = load_vlm(tiny_vlm(tmp_path / 'vlm'))
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    next(reasoner.model.parameters()).data += 1
    reasoner.model.save_pretrained(reasoner.folder)
    with pytest.raises(OptionError, match="begun with another model: 'vlm@.*now 'vlm@"):
        write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)


def test_more_images_are_added_and_other_ones_refused(tmp_path, reasoner, images, writing):
    out = tmp_path / 'texts.jsonl'
    write_texts(reasoner, images, tmp_path / 'whole.jsonl', OPTIONS)
    write_texts(reasoner, images[1:3], out, OPTIONS)
    before = out.read_bytes()
    with pytest.raises(OptionError, match=r'holds texts on 2 images that are not among these 2: 1.png, 2.png. Give another'):
        write_texts(reasoner, images[3:], out, OPTIONS)
    assert out.read_bytes() == before and not (tmp_path / 'texts.jsonl.part').exists()
    write_texts(reasoner, images, out, OPTIONS)
    assert out.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


@pytest.mark.parametrize('end', ['', '.part'])
def test_texts_of_something_else_are_not_claimed(tmp_path, reasoner, images, writing, end):
    foreign = tmp_path / f'texts.jsonl{end}'
    foreign.write_text('{"image": "0.png", "texts": [{"text": "By hand.", "seed": 0, "model": "nobody"}]}\n')
    with pytest.raises(OptionError, match='texts.jsonl.*is there without texts.jsonl.json'):
        write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    assert 'By hand.' in foreign.read_text() and not (tmp_path / 'texts.jsonl.json').exists()


def numbered(seed):
    return f'<think>It is {seed % 5}.</think><answer>3</answer>' if seed % 11 == 0 else 'nothing'


def test_more_attempts_go_on_to_what_one_run_with_as_many_writes(tmp_path, reasoner, images, monkeypatch):
    """With four attempts some images have no text and some too few; nothing that is done is asked for again."""
    asked = []

    def rarely(reasoner, pictures, question, max_new_tokens, seeds, temperature):
        asked.append(len(pictures))
        return [reasoner.processor.tokenizer.encode(numbered(seed), add_special_tokens=False) for seed in seeds]
    monkeypatch.setattr(module, 'complete', rarely)
    few, many = (replace(OPTIONS, texts_per_image=2, attempts=attempts) for attempts in (4, 99))
    write_texts(reasoner, images, tmp_path / 'whole.jsonl', many)
    for _ in range(2):
        asked.clear()
        with pytest.raises(DataError, match=r'images have no text after 4 attempts.*Raise --attempts'):
            write_texts(reasoner, images, tmp_path / 'texts.jsonl', few)
        lines = (tmp_path / 'texts.jsonl.part').read_text().splitlines()
        assert asked and {len(json.loads(line)['texts']) for line in lines} >= {0, 1}
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', replace(many, batch_size=5))
    assert (tmp_path / 'texts.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    asked.clear()
    assert write_texts(reasoner, images, tmp_path / 'texts.jsonl', few).texts == 10 and not asked


def test_texts_do_not_depend_on_the_batch_size(tmp_path, reasoner, images, monkeypatch):
    """With the model's own completions, each taken as a text, since random weights write nothing that parses."""
    monkeypatch.setattr(module, 'usable_text', lambda card, completion, ended: completion or None)
    for size in (1, 2, 5):
        write_texts(reasoner, images, tmp_path / f'{size}.jsonl', replace(OPTIONS, batch_size=size, max_new_tokens=16))
    assert len({(tmp_path / f'{size}.jsonl').read_bytes() for size in (1, 2, 5)}) == 1
    assert len({text.text for texts in load_reasoning_texts(tmp_path / '1.jsonl').values() for text in texts}) == 15


@pytest.mark.parametrize('loading', [{'max_pixels': 2048}, {'dtype': 'bfloat16'}])
def test_another_way_of_loading_is_another_setting(tmp_path, reasoner, images, writing, loading):
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    with pytest.raises(OptionError, match=f'begun with another {next(iter(loading))}: .*now {next(iter(loading.values()))!r}'):
        write_texts(load_vlm(reasoner.folder, **loading), images, tmp_path / 'texts.jsonl', OPTIONS)


def test_too_few_different_texts_are_reported_and_none_is_an_error(tmp_path, reasoner, images, monkeypatch):
    def always(text):
        return lambda reasoner, pictures, *rest: [reasoner.processor.tokenizer.encode(text)] * len(pictures)
    monkeypatch.setattr(module, 'complete', always('<think>One.</think><answer>3</answer>'))
    report = write_texts(reasoner, images, tmp_path / 'one.jsonl', OPTIONS)
    assert report.texts == 5 and len(report.short) == 5
    monkeypatch.setattr(module, 'complete', always('<think>One.</think>'))
    with pytest.raises(DataError, match='5 images have no text after 8 attempts'):
        write_texts(reasoner, images, tmp_path / 'none.jsonl', OPTIONS)


UNRATED = {'closed': '<think>It is dark.</think>', 'ended': 'It is dark.', 'cut': '<think>It is dark and' + ' dark' * 40,
           'empty': '<think></think>'}


@pytest.mark.parametrize(('kind', 'with_rating', 'found'), [
    ('closed', False, 1), ('ended', False, 1), ('cut', False, 0), ('empty', False, 0), ('closed', True, 0), ('ended', True, 0)])
def test_texts_without_a_rating_count_where_the_card_wants_none(tmp_path, reasoner, images, monkeypatch, kind, with_rating,
                                                                found):
    def complete(reasoner, pictures, prompt, max_new_tokens, *rest):
        return [reasoner.processor.tokenizer.encode(UNRATED[kind])[:max_new_tokens]] * len(pictures)
    monkeypatch.setattr(module, 'complete', complete)
    unrated = replace(reasoner, card=replace(reasoner.card, with_rating=with_rating))
    options = replace(OPTIONS, texts_per_image=1, attempts=2, max_new_tokens=30)
    if found:
        assert write_texts(unrated, images, tmp_path / 'texts.jsonl', options).texts == 5
        assert load_reasoning_texts(tmp_path / 'texts.jsonl')['0.png'][0].text == 'It is dark.'
    else:
        with pytest.raises(DataError, match='5 images have no text after 2 attempts'):
            write_texts(unrated, images, tmp_path / 'texts.jsonl', options)


def test_a_model_without_such_a_card_needs_to_be_told(tmp_path, reasoner, images, monkeypatch):
    monkeypatch.setattr(module, 'complete', lambda reasoner, pictures, *rest:
                        [reasoner.processor.tokenizer.encode(UNRATED['closed'])] * len(pictures))
    command = ['write-texts', str(images[0].parent), '--model', str(reasoner.folder), '--device', 'cpu']
    assert main([*command, '--out', str(tmp_path / 'rated.jsonl')]) == 2
    assert main([*command, '--out', str(tmp_path / 'unrated.jsonl'), '--texts-per-image', '1', '--no-rating']) == 0
    assert json.loads((tmp_path / 'unrated.jsonl.json').read_text())['settings']['with_rating'] is False


def test_images_in_subfolders_are_named_by_the_shortest_end_of_their_own(tmp_path, reasoner, images, writing):
    copies = []
    for folder in ('blur/weak', 'noise/weak'):
        (tmp_path / 'more' / folder).mkdir(parents=True)
        copies.append(Path(shutil.copy(images[0], tmp_path / 'more' / folder)))
    write_texts(reasoner, [*copies, images[1]], tmp_path / 'texts.jsonl', OPTIONS)
    found = load_reasoning_texts(tmp_path / 'texts.jsonl')
    assert list(found) == ['blur/weak/0.png', 'noise/weak/0.png', '1.png']
    expected = [[item.text for item in texts] for texts in found.values()]
    joined = join_texts(map(str, [*copies, images[1]]), found)
    assert [[text.text for text in texts] for texts in joined] == expected


def test_a_file_given_twice_is_refused(tmp_path, reasoner, images):
    with pytest.raises(DataError, match='1 image names refer to several files: .*0.png'):
        write_texts(reasoner, [images[0], images[0]], tmp_path / 'texts.jsonl', OPTIONS)


def test_the_commands(tmp_path, reasoner, images, writing, capsys):
    folder = str(images[0].parent)
    arguments = ['--model', str(reasoner.folder), '--max-new-tokens', '24', '--device', 'cpu']
    assert main(['write-texts', folder, '--out', str(tmp_path / 'texts.jsonl'), '--texts-per-image', '2', *arguments]) == 0
    assert '10 texts on 5 images' in capsys.readouterr().err
    assert main(['describe', folder, '--json', *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 5 and all(1 <= line['rating'] <= 5 and line['status'] == 'expectation' for line in lines)
    assert main(['describe', folder, *arguments]) == 0
    assert 'rating' in capsys.readouterr().out


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--out', 'x'], 'give either images'), (['a', '--out', 'x', '--temperature', '0'], '--temperature: 0'),
    (['a', '--out', 'x', '--attempts', '0'], '--attempts: 0'), (['/gone', '--out', 'x'], '/gone: no such file')])
def test_arguments_that_cannot_be_used(capsys, arguments, message):
    assert main(['write-texts', *arguments, '--model', 'x']) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('command', [['describe'], ['write-texts', '--out', 'x']])
@pytest.mark.parametrize(('arguments', 'message'), [
    (['--device', 'gpu'], '--device: "gpu" cannot be used: .* Give cpu, cuda'),
    (['--max-pixels', '0'], '--max-pixels: 0 must be at least 1'),
    (['--device', 'cuda:99'], '--device: "cuda:99" cannot be used'),
    (['--batch-size', '0'], '--batch-size: 0 must be at least 1')])
def test_models_that_cannot_be_run_so(reasoner, images, capsys, command, arguments, message):
    assert main([*command, str(images[0]), '--model', str(reasoner.folder), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_an_image_that_cannot_be_described_costs_the_others_nothing(reasoner, images, capsys):
    command = ['describe', *map(str, images), '--model', str(reasoner.folder), '--device', 'cpu', '--max-new-tokens', '8',
               '--json']
    main(command)
    before = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    images[1].write_bytes(images[1].read_bytes()[:60])
    Image.new('RGB', (300, 1)).save(images[3])
    read_picture.cache_clear()
    assert main(command) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line['image'] for line in lines] == list(map(str, images)) and '2 of 5 images have no rating' in printed.err
    for number in (0, 2, 4):  # the company in a batch changes a rating by rounding alone
        assert lines[number] == {**before[number], 'rating': pytest.approx(before[number]['rating'], abs=1e-5)}
    assert f'{images[1]}: cannot be read' in lines[1]['error'] and '300x1 pixels' in lines[3]['error']
    assert main([part for part in command if part != '--json']) == 1
    assert f'{images[3]}\n  error: {images[3]}: the model cannot be shown' in capsys.readouterr().out


def test_a_picture_of_a_shape_that_the_model_cannot_take_is_named(tmp_path, reasoner, images, writing):
    Image.new('RGB', (300, 1)).save(images[3])
    with pytest.raises(DataError, match=r'3.png: the model cannot be shown a picture of 300x1 pixels .* leave it out'):
        write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)


@pytest.mark.parametrize(('opt', 'message'), [
    ('rali_lite_v1.yml', 'datasets: train: type: SyntheticNRDataset has no files; write a data set with'),
    ('evaluate.yml', '--dataset: "train" is not in'), ('demo/chain.yml', 'has no data sets .* such as options/rali.yml')])
def test_option_files_without_such_images(capsys, opt, message):
    assert main(['write-texts', '--opt', str(REPOSITORY / 'options' / opt), '--model', 'x', '--out', 'x']) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(('levels', 'known'), [
    (('3', '2+1.5', '0'), [[('jpeg', 3.0)], [('haze', 2.0), ('jpeg', 1.5)], []]), (('3', '', '0'), [[('jpeg', 3.0)], None, []]),
    (('strong', 'weak', 'none'), [None] * 3)])
def test_texts_carry_what_the_table_knows_of_their_images(tmp_path, images, reasoner, writing, capsys, levels, known):
    rows = zip(('0.png', '3.png', '4.png'), ('jpeg', 'haze+jpeg', 'pristine'), levels, strict=True)
    table = 'image,mos,distortion,level\n' + ''.join(f'{image},{mos},{kind},{level}\n' for mos, (image, kind, level) in
                                                     enumerate(rows, start=1))
    (tmp_path / 'table.csv').write_text(table)
    section = {'name': 'made', 'type': 'GeneralNRDataset', 'dataroot_target': str(images[0].parent), 'mos_range': [1, 5],
               'meta_info_file': str(tmp_path / 'table.csv'), 'lower_better': False}
    (tmp_path / 'options.yml').write_text(yaml.safe_dump({'datasets': {'train': section}}))
    command = ['write-texts', '--opt', str(tmp_path / 'options.yml'), '--model', str(reasoner.folder), '--device', 'cpu']
    assert main([*command, '--texts-per-image', '2', '--out', str(tmp_path / 'texts.jsonl')]) == 0
    written = load_reasoning_texts(tmp_path / 'texts.jsonl')
    assert [[text.distortions for text in texts] for texts in written.values()] == [[pairs] * 2 for pairs in known]
    assert all(text.model == identity(reasoner.folder) and text.seed for texts in written.values() for text in texts)
    assert ('are not those of make-dataset' in capsys.readouterr().err) == (levels[0] == 'strong')


def test_a_part_of_version_0_1_goes_on(tmp_path, reasoner, images, writing):
    write_texts(reasoner, images, tmp_path / 'whole.jsonl', OPTIONS)
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    found = load_reasoning_texts(tmp_path / 'texts.jsonl')
    (tmp_path / 'texts.jsonl').unlink()
    (tmp_path / 'texts.jsonl.part').write_text(''.join(
        json.dumps({'image': name, 'texts': [{'text': text.text, 'seed': text.seed, 'model': text.model, 'distortions': None}
                                             for text in found[name]]}) + '\n' for name in list(found)[:2]))
    write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS)
    assert (tmp_path / 'texts.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


def test_the_images_of_degradations_and_classes_can_be_written_on(tmp_path, images, reasoner, writing):
    """Sections that a training of a reasoning model knows beyond pyiqa's."""
    (tmp_path / 'train_mos.csv').write_text(''.join(f'{line}\n' for line in ('image,mos,fault', '0.png,1,blur', '3.png,5,')))
    (tmp_path / 'train_kinds.csv').write_text('image,distortion_class,severity\n2.png,blur,slight\n')
    sections = {name: {'name': name, 'dataroot_target': str(images[0].parent), 'meta_info_file': str(tmp_path / f'{name}.csv')}
                for name in ('train_mos', 'train_kinds')}
    sections['train_mos'] |= {'type': 'GeneralNRDataset', 'mos_range': [1, 5], 'lower_better': False, 'class_column': 'fault'}
    sections['train_kinds'] |= {'type': 'DegradationTable'}
    (tmp_path / 'options.yml').write_text(yaml.safe_dump({'datasets': sections}))
    for name, found in (('train_mos', ['0.png', '3.png']), ('train_kinds', ['2.png'])):
        out = tmp_path / f'{name}.jsonl'
        assert main(['write-texts', '--opt', str(tmp_path / 'options.yml'), '--dataset', name, '--model', str(reasoner.folder),
                     '--device', 'cpu', '--out', str(out)]) == 0
        assert list(load_reasoning_texts(out)) == found


def test_the_data_sets_of_a_ract_file_may_be_called_anything(tmp_path, images):
    (tmp_path / 'mos.csv').write_text('image,mos\n0.png,1\n3.png,5\n')
    section = {'name': 'one', 'type': 'GeneralNRDataset', 'dataroot_target': str(images[0].parent),
               'meta_info_file': str(tmp_path / 'mos.csv'), 'mos_range': [1, 5], 'lower_better': False}
    (tmp_path / 'ract.yml').write_text(yaml.safe_dump({'model_type': 'RACT', 'datasets': {'one': section}}))
    assert files_of(str(tmp_path / 'ract.yml'), 'one') == [images[0], images[3]]


@pytest.fixture
def vllm(monkeypatch, reasoner):
    """A stand-in for vLLM, which is not a dependency; transformers' own loading of weights is forbidden."""
    import transformers

    class LLM:
        made, asked = [], []

        def __init__(self, **options):
            self.made.append(options)

        def generate(self, requests, parameters, use_tqdm):
            self.asked.extend(zip(requests, parameters, strict=True))
            texts = [f'<think>It is {number}.</think><answer>3</answer>' for number in range(len(self.asked))][-len(requests):]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=reasoner.processor.tokenizer.encode(text))])
                    for text in texts]

    def forbidden(*arguments, **options):
        raise AssertionError('the weights were loaded by transformers')
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, 'from_pretrained', forbidden)
    monkeypatch.setitem(sys.modules, 'vllm', SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace))
    return LLM


def write_with_vllm(reasoner, images, out, *more):
    return main(['write-texts', str(images[0].parent), '--out', str(out), '--model', str(reasoner.folder), '--backend', 'vllm',
                 *more])


def test_the_backend_of_vllm_is_asked_with_seeds_and_pictures(tmp_path, reasoner, images, vllm):
    assert write_with_vllm(reasoner, images, tmp_path / 'texts.jsonl', '--texts-per-image', '2', '--prompt', 'From {low}?') == 0
    assert vllm.made == [{'model': str(reasoner.folder), 'dtype': 'auto', 'limit_mm_per_prompt': {'image': 1}}]
    assert len(load_reasoning_texts(tmp_path / 'texts.jsonl')) == 5 and len(vllm.asked) == 10
    request, parameters = vllm.asked[0]
    assert '<|image_pad|>' in request['prompt'] and 'From 1.0?' in request['prompt']
    assert request['multi_modal_data']['image'].size == (32, 32)
    assert parameters.temperature == 1 and len({each.seed for _, each in vllm.asked}) == 10
    assert parameters.logit_bias == dict.fromkeys(placeholder_tokens(reasoner.model.config), -100) != {}


def test_the_backend_of_vllm_is_asked_as_the_others(tmp_path, reasoner, images, vllm):
    (tmp_path / 'prompts.yml').write_text('system_prompt: Judge it.')
    assert write_with_vllm(reasoner, images, tmp_path / 'texts.jsonl', '--texts-per-image', '1', '--top-k', '50', '--top-p',
                           '0.9', '--prompts', str(tmp_path / 'prompts.yml')) == 0
    request, parameters = vllm.asked[-1]
    assert request['prompt'].startswith('<|im_start|>system\nJudge it.<|im_end|>\n<|im_start|>user\n')
    assert (parameters.top_k, parameters.top_p, parameters.repetition_penalty) == (50, 0.9, 1.0)
    settings = json.loads((tmp_path / 'texts.jsonl.json').read_text())['settings']
    assert (settings['system_prompt'], settings['top_k'], settings['top_p']) == ('Judge it.', 50, 0.9)


def test_another_system_message_is_another_setting(tmp_path, reasoner, images, vllm, capsys):
    assert write_with_vllm(reasoner, images, tmp_path / 'texts.jsonl', '--system-prompt', 'Judge it.') == 0
    assert write_with_vllm(reasoner, images, tmp_path / 'texts.jsonl') == 2
    assert "was begun with another system_prompt: 'Judge it.', now None" in capsys.readouterr().err


def test_texts_of_a_version_without_system_messages_are_gone_on_with(tmp_path, reasoner, images, writing):
    write_texts(reasoner, images[:4], tmp_path / 'texts.jsonl', OPTIONS)
    described = tmp_path / 'texts.jsonl.json'
    settings = json.loads(described.read_text())['settings']
    for name in ('system_prompt', 'top_k', 'top_p'):
        assert settings.pop(name) is None
    described.write_text(json.dumps({'settings': settings}))
    assert write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS).images == 5


def test_one_process_writes(tmp_path, reasoner, images, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    out = str(tmp_path / 'a.jsonl')
    assert main(['write-texts', str(images[0].parent), '--out', out, '--model', str(reasoner.folder)]) == 2
    assert '2 processes would write the same file' in capsys.readouterr().err and not list(tmp_path.glob('a.jsonl*'))


def with_processor_bounds(reasoner, folder, shortest, longest):
    shutil.copytree(reasoner.folder, folder)
    copy = load_without_weights(folder)
    size = dict(copy.processor.image_processor.size)
    copy.processor.image_processor.size = {**size, 'shortest_edge': shortest, 'longest_edge': longest}
    copy.processor.save_pretrained(folder)
    return copy


def test_the_backend_of_vllm_gets_weights_and_pictures_as_asked(tmp_path, reasoner, images, vllm):
    """A bounded picture has the size that transformers' processor gives it, and that vLLM's leaves as it is."""
    Image.new('RGB', (200, 90)).save(images[0])
    wide = with_processor_bounds(reasoner, tmp_path / 'wide', 256, 90000)
    assert write_with_vllm(wide, images, tmp_path / 'a.jsonl', '--dtype', 'bfloat16', '--max-pixels', '700') == 0
    assert vllm.made[-1]['dtype'] == 'bfloat16'
    processor = load_without_weights(wide.folder, max_pixels=700).processor
    _, rows, columns = processor.image_processor([Image.open(images[0])], return_tensors='pt')['image_grid_thw'][0].tolist()
    width, height = vllm.asked[0][0]['multi_modal_data']['image'].size
    patch = processor.image_processor.patch_size
    assert (width, height) == (columns * patch, rows * patch) and 200 * 90 > 700 >= width * height
    assert write_with_vllm(wide, images, tmp_path / 'a.jsonl', '--dtype', 'float16', '--max-pixels', '700') == 2


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--attn-implementation', 'sdpa'], '--attn-implementation: sdpa is for --backend transformers'),
    (['--max-pixels', '700'], '--max-pixels: 700 must be in 1024 to 1024 for --backend vllm'),
    (['--device', 'cuda:1'], '--device: cuda:1 is for --backend transformers.*CUDA_VISIBLE_DEVICES')])
def test_what_vllm_cannot_do_is_refused(tmp_path, reasoner, images, vllm, capsys, arguments, message):
    assert write_with_vllm(reasoner, images, tmp_path / 'a.jsonl', *arguments) == 2
    assert re.search(message, capsys.readouterr().err) and not vllm.made


def test_pixel_bounds_that_vllm_cannot_keep_are_refused():
    other = SimpleNamespace(processor=SimpleNamespace(image_processor=object()), loading={'min_pixels': None, 'max_pixels': 9})
    with pytest.raises(OptionError, match='--max-pixels: 9 cannot be kept by --backend vllm for the processor object'):
        pixel_bounds(other)


def test_a_backend_that_is_not_there_says_so(tmp_path, reasoner, images, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'vllm', None)
    assert write_with_vllm(reasoner, images, tmp_path / 'a.jsonl') == 2
    assert '--backend: vllm cannot be imported' in capsys.readouterr().err
