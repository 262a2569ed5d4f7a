"""The analyses of a reasoning model, and of models against each other, on tiny models."""

import csv
import json
import re

import numpy as np
import pytest
import torch
import yaml

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli.analyse import named_checkpoints
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.files import model_sha256, sha256
from pyiqa_rali.core.runs import KeyedRows
from pyiqa_rali.model.checkpoint import FORMAT_VERSION, save_checkpoint
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.studies.analyses.attention import PARTS, attention_shares, last_rows, parts_of
from pyiqa_rali.studies.analyses.domains import ALIGNED, VISUAL, encoders_of
from pyiqa_rali.studies.analyses.folder import AnalysisFolder
from pyiqa_rali.studies.analyses.reasoning import agreement, begun_completion, partners, shuffled_words
from pyiqa_rali.studies.analyses.teachers import analyse_teachers, consistency
from pyiqa_rali.vlm.generation import decode, encode
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.prompts import Prompt
from pyiqa_rali.vlm.ratings import until_rating
from tests.tiny import tiny_options, tiny_qwen3_vl, tiny_table, tiny_vlm


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('analyses')


@pytest.fixture(scope='module')
def model(folder):
    return tiny_vlm(folder / 'vlm')


@pytest.fixture(scope='module')
def reasoner(model):
    return load_vlm(model)


@pytest.fixture(scope='module')
def picture():
    from PIL import Image
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.fixture(scope='module')
def options(folder):
    values = tiny_options(folder / 'run')
    values['datasets']['train_a'] = {**values['datasets']['train'], 'name': 'a'}
    other = tiny_table(folder / 'other', seed=5)
    values['datasets']['train_b'] = {**values['datasets']['train'], 'name': 'b', 'dataroot_target': other['images'],
                                     'meta_info_file': other['table'], 'reasoning_texts': other['texts']}
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(values))
    return path


def written(text, reasoner):
    return reasoner.processor.tokenizer.encode(text, add_special_tokens=False)


def rows_of(path):
    with open(path, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


COMPLETION = '<think>The picture is noisy.</think><answer>{"rating": 2.50}</answer>'


@pytest.mark.parametrize('make', [tiny_vlm, tiny_qwen3_vl], ids=['qwen2.5', 'qwen3'])
def test_attention_shares_sum_to_one_in_every_layer(tmp_path, picture, make):
    reasoner = load_vlm(make(tmp_path / 'model'))
    before = reasoner.model.config.get_text_config()._attn_implementation
    found = attention_shares(reasoner, picture, Prompt('Rate it.'), written(COMPLETION, reasoner), 'rating')
    assert found.shares.shape == (2, 4) and found.shares.sum(axis=1) == pytest.approx([1, 1])
    assert (found.shares > 0).all() and found.tokens.sum() > 20
    assert reasoner.model.config.get_text_config()._attn_implementation == before != 'eager'
    assert not reasoner.model.get_decoder().layers[0].self_attn._forward_hooks


def test_attention_is_that_of_the_last_row(reasoner, picture):
    inputs = encode(reasoner, [picture], Prompt('Rate it.'), [written('<think>noise</think>', reasoner)])
    reasoner.model.set_attn_implementation({'text_config': 'eager'})
    with torch.no_grad():
        expected = [layer[0, :, -1].mean(dim=0) for layer in reasoner.model(**inputs, output_attentions=True).attentions]
    reasoner.model.set_attn_implementation({'text_config': 'sdpa'})
    with last_rows(reasoner.model) as rows, torch.no_grad():
        reasoner.model(**inputs)
    assert len(rows) == len(expected) == 2
    assert all(torch.allclose(row, other, atol=1e-6) for row, other in zip(rows, expected, strict=True))


def test_every_token_has_its_part(reasoner, picture):
    prefix = until_rating(reasoner, written(COMPLETION, reasoner), 'rating')
    tokens = encode(reasoner, [picture], Prompt('Rate it.'), [prefix])['input_ids'][0].tolist()
    part = parts_of(reasoner, tokens, prefix)
    texts = {name: decode(reasoner, [token for token, each in zip(tokens, part, strict=True) if PARTS[each] == name])
             for name in PARTS}
    assert texts['reasoning'] == 'The picture is noisy.' and texts['format'] == '<think></think><answer>{"rating": '
    assert 'Rate it.' in texts['prompt'] and set(np.array(tokens)[part == 0]) == {reasoner.model.config.image_token_id}


def test_a_completion_without_tags_is_all_reasoning(reasoner, picture):
    prefix = until_rating(reasoner, written('It is noisy.', reasoner), 'rating')
    tokens = encode(reasoner, [picture], Prompt('Rate it.'), [prefix])['input_ids'][0].tolist()
    part = parts_of(reasoner, tokens, prefix)
    assert decode(reasoner, [token for token, each in zip(tokens, part, strict=True) if PARTS[each] == 'reasoning']) \
        == 'It is noisy.'


def test_a_model_whose_attention_cannot_be_had_is_refused(reasoner):
    with pytest.raises(CheckpointError, match='Linear: .* attention cannot be measured'), last_rows(torch.nn.Linear(2, 2)):
        pass


def test_analysing_attention_writes_tables_and_a_picture(model, options, folder, capsys):
    images = str(options.parent / 'run' / 'data')
    arguments = ['analyse', 'attention', images, '--model', str(model), '--limit', '3', '--max-new-tokens', '12', '--out',
                 str(folder / 'attention')]
    assert main(arguments) == 0
    layers = rows_of(folder / 'attention' / 'layers.csv')
    assert [sum(float(row[part]) for part in PARTS) for row in layers] == pytest.approx([1, 1])
    found = json.loads((folder / 'attention' / 'results.json').read_text())
    assert found['images'] == 3 and sum(found['shares'].values()) == pytest.approx(1)
    assert sum(found['reasoning_and_visual'].values()) == pytest.approx(1)
    assert (folder / 'attention' / 'attention.png').stat().st_size > 0
    capsys.readouterr()
    assert main([*arguments, '--max-new-tokens', '13']) == 2
    assert 'was begun with another max_new_tokens: 12, now 13' in capsys.readouterr().err


def test_partners_are_other_images_each_once():
    for count in (2, 3, 10):
        others = partners(count, 1)
        assert sorted(others) == list(range(count)) and (others != np.arange(count)).all()
    assert partners(10, 1).tolist() == partners(10, 1).tolist() != partners(10, 2).tolist()


def test_words_are_shuffled_by_the_seed():
    text = 'one two three four five six seven'
    assert sorted(shuffled_words(text, 3).split()) == sorted(text.split()) and shuffled_words(text, 3) != text
    assert shuffled_words(text, 3) == shuffled_words(text, 3) != shuffled_words(text, 4) and shuffled_words('', 0) == ''
    assert {shuffled_words('one two', seed) for seed in range(20)} == {'two one'} and shuffled_words('on on', 0) == 'on on'


def test_the_rating_is_asked_after_each_kind_of_reasoning(reasoner):
    own, other = written(COMPLETION, reasoner), written('<think>dark</think>', reasoner)
    begun = {name: decode(reasoner, until_rating(reasoner, begun_completion(reasoner, name, own, other, 3), 'rating'))
             for name in ('on', 'off', 'shuffled', 'other')}
    end = '</think><answer>{"rating": '
    assert begun['on'] == f'<think>The picture is noisy.{end}' and begun['off'] == f'<think>{end}'
    assert begun['other'] == f'<think>dark{end}' and begun['shuffled'] not in (begun['on'], begun['off'])
    assert sorted(begun['shuffled'].replace('<think>', '').replace(end, '').split()) == ['The', 'is', 'noisy.', 'picture']


def test_agreement_tells_picture_from_text():
    mos, other = np.arange(6.0), partners(6, 0)
    text_alone = agreement({'on': mos, 'other': mos[other]}, mos, other)
    assert text_alone[0]['plcc_mos'] == pytest.approx(1) and text_alone[1]['plcc_partner_mos'] == pytest.approx(1)
    assert text_alone[0]['plcc_partner_mos'] != text_alone[0]['plcc_partner_mos']  # NaN: only for other
    picture_alone = agreement({'on': mos, 'other': mos + 1}, mos, other)[1]
    assert picture_alone['plcc_on'] == pytest.approx(1) and picture_alone['mean_absolute_change'] == pytest.approx(1)
    constant = agreement({'on': np.ones(6), 'off': mos}, mos, other)
    assert constant[0]['plcc_mos'] != constant[0]['plcc_mos'] and constant[1]['plcc_mos'] == pytest.approx(1)


def test_switching_the_reasoning_goes_on_where_it_was_stopped(model, options, folder, capsys):
    arguments = ['analyse', 'reasoning', '-opt', str(options), '--sections', 'val', '--model', str(model), '--limit', '5',
                 '--max-new-tokens', '12', '--batch-size', '2', '--out', str(folder / 'reasoning')]
    assert main(arguments) == 0
    scores = rows_of(folder / 'reasoning' / 'scores.csv')
    assert len(scores) == 5 and all(1 <= float(row[name]) <= 5 for row in scores for name in ('on', 'off', 'other'))
    assert {row['other_image'] for row in scores} == {row['image'] for row in scores}
    table = {row['condition']: row for row in rows_of(folder / 'reasoning' / 'table.csv')}
    on, mos = (np.array([float(row[name]) for row in scores]) for name in ('on', 'mos'))
    assert float(table['on']['plcc_mos']) == pytest.approx(np.corrcoef(on, mos)[0, 1], abs=1e-6)
    lines = (folder / 'reasoning' / 'ratings.jsonl').read_text().splitlines(keepends=True)
    (folder / 'reasoning' / 'ratings.jsonl').write_text(''.join(lines[:2]) + lines[2][:20])
    (folder / 'reasoning' / 'scores.csv').unlink()
    assert main(arguments) == 0
    again = rows_of(folder / 'reasoning' / 'scores.csv')
    for row, other in zip(scores, again, strict=True):
        assert float(row['off']) == pytest.approx(float(other['off']), abs=1e-6)
    assert main([*arguments[:4], '--sections', 'vall', *arguments[6:]]) == 2
    assert '"vall" is not in' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['attention', 'reasoning'])
def test_rows_of_a_model_that_was_replaced_are_not_gone_on_with(kind, options, folder, tmp_path, capsys):
    data = {'attention': [str(options.parent / 'run' / 'data'), '--limit', '1'],
            'reasoning': ['-opt', str(options), '--sections', 'val', '--limit', '3']}[kind]
    arguments = ['analyse', kind, *data, '--model', str(tiny_vlm(tmp_path / 'vlm')), '--max-new-tokens', '4', '--out',
                 str(tmp_path / 'out')]
    assert main(arguments) == 0
    tiny_vlm(tmp_path / 'vlm', seed=1)
    capsys.readouterr()
    assert main(arguments) == 2
    assert 'was begun with another weights_sha256 of model' in capsys.readouterr().err


def tiny_checkpoint(path, seed, lower_better=False):
    """Write a RALI of random weights."""
    from pyiqa_rali.model.rali import RALI
    torch.manual_seed(seed)
    net = RALI(pretrained=False, pca_dim=4, num_basis=5, mos_range=(1, 5), lower_better=lower_better, image_encoder={
        'library': 'timm', 'name': 'test_efficientnet', 'embed_dim': 16, 'pooling': 'mean_std',
        'preprocessing': {'resize_mode': 'native', 'image_size': None, 'resize_size': 64, 'mean': [0.5] * 3, 'std': [0.5] * 3}})
    for tensor in net.scorer.state_dict().values():
        torch.nn.init.normal_(tensor)
    tensors = {name: value for name, value in net.state_dict().items() if not name.endswith('_extra_state')}
    tensors['scorer.temperature'] = torch.tensor(0.2)
    tensors['scorer.pca_scale'] = torch.ones(16)
    save_checkpoint(path, tensors, {**net.metadata, 'format_version': FORMAT_VERSION, 'temperature': 0.2})
    return path


def test_teachers_are_compared_in_one_direction(options, folder, capsys):
    first = tiny_checkpoint(folder / 'one.safetensors', 0)
    turned = tiny_checkpoint(folder / 'turned.safetensors', 0, lower_better=True)
    assert main(['analyse', 'teachers', '-opt', str(options), '--sections', 'val', '--checkpoints', str(first), str(turned),
                 '--out', str(folder / 'teachers')]) == 0
    table = rows_of(folder / 'teachers' / 'table.csv')
    assert [(row['first'], row['second']) for row in table] == [('one', 'MOS'), ('turned', 'MOS'), ('one', 'turned')]
    assert float(table[2]['plcc']) == pytest.approx(-1) and len(rows_of(folder / 'teachers' / 'scores.csv')) == 8
    assert (folder / 'teachers' / 'teachers.png').stat().st_size > 0
    tiny_checkpoint(folder / 'turned.safetensors', 1)
    capsys.readouterr()
    assert main(['analyse', 'teachers', '-opt', str(options), '--sections', 'val', '--checkpoints', str(first), str(turned),
                 '--out', str(folder / 'teachers')]) == 2
    assert 'was begun with another weights_sha256 of turned' in capsys.readouterr().err


def test_an_analysis_is_a_function_that_returns_what_it_found(options, folder):
    paths = {'a': tiny_checkpoint(folder / 'a.safetensors', 3), 'b': tiny_checkpoint(folder / 'b.safetensors', 4)}
    found = analyse_teachers(yaml.safe_load(options.read_text()), ['val'], paths, folder / 'called', limit=5)
    assert found.files == ['scores.csv', 'table.csv', 'results.json', 'teachers.png']
    assert all((found.root / name).stat().st_size > 0 for name in found.files)
    assert [row['image'] for row in found.tables['scores']] == [row['image'] for row in rows_of(found.root / 'scores.csv')]
    assert found.results == json.loads((found.root / 'results.json').read_text()) and found.results['rows'][2]['images'] == 5
    with pytest.raises(OptionError, match='limit: 0 must be at least 1'):
        analyse_teachers(options, ['val'], paths, folder / 'no', limit=0)
    with pytest.raises(OptionError, match='checkpoints: a: must be at least two'):
        analyse_teachers(options, ['val'], {'a': 'a.safetensors'}, folder / 'no')


def test_consistency_of_known_scores():
    mos = np.arange(8.0)
    rows = consistency({'a': mos, 'b': mos ** 2}, mos, 'set')
    assert rows[2]['srcc'] == pytest.approx(1) and rows[2]['srcc_difference'] == pytest.approx(0)
    assert rows[2]['plcc_difference'] == pytest.approx(1 - rows[1]['plcc']) and rows[0]['plcc'] == pytest.approx(1)
    constant = consistency({'a': mos, 'b': np.ones(8)}, mos, 'set')
    assert constant[0]['plcc'] == pytest.approx(1) and np.isnan([constant[1]['plcc'], constant[2]['srcc']]).all()


def test_checkpoints_have_names():
    assert named_checkpoints(['runs/a/models/rali.safetensors', 'B=x.pth']) == {
        'a': 'runs/a/models/rali.safetensors', 'B': 'x.pth'}
    with pytest.raises(OptionError, match='rali, rali: must be at least two, with different names'):
        named_checkpoints(['rali.safetensors', 'other/rali.safetensors'])


def test_domains_of_two_data_sets(options, folder, capsys):
    checkpoint = tiny_checkpoint(folder / 'domains.safetensors', 0)
    arguments = ['analyse', 'domains', '-opt', str(options), '--sections', 'train_a', 'train_b', '--checkpoint',
                 str(checkpoint), '--permutations', '20', '--limit', '12', '--out', str(folder / 'domains')]
    assert main(arguments) == 0
    rows = rows_of(folder / 'domains' / 'distances.csv')
    assert [row['space'] for row in rows] == ['visual features', 'reasoning texts', 'aligned embeddings']
    assert all(0 <= float(row['accuracy']) <= 1 and 0 < float(row['p_value']) <= 1 for row in rows)
    assert len(rows_of(folder / 'domains' / 'points.csv')) == 3 * 24
    assert (folder / 'domains' / 'domains.png').stat().st_size > 0
    weights = json.loads((folder / 'domains' / 'options.json').read_text())['weights_sha256']
    assert set(weights) == {row['space'] for row in rows} and len(set(weights.values())) == 3
    assert main([*arguments[:5], 'train_a', '--checkpoint', *arguments[8:]]) == 2
    assert 'sections: train_a: must name at least two different data sets' in capsys.readouterr().err
    assert main([*arguments[:5], 'train_a', 'val', *arguments[7:-1], str(folder / 'no')]) == 2
    assert 'datasets: val: reasoning_texts: must be given' in capsys.readouterr().err


@pytest.mark.parametrize(('section', 'values', 'message'), [
    ('network', {'image_encoder': {'library': 'open_clip', 'name': 'RN50', 'pretrained': 'openai'}},
     'error: network: image_encoder: pretrained: openai of RN50 cannot be obtained: .* Give what is on this machine'),
    ('network', {'image_encoder': {'library': 'timm', 'name': 'test_efficientnet', 'embed_dim': 16, 'pretrained': True}},
     'error: network: image_encoder: pretrained: the weights of test_efficientnet in timm cannot be obtained: .* Give what '
     'is on'),
    ('text_encoder', {'library': 'transformers', 'path': 'owner/name'},
     'error: owner/name: is not in the cache of the hub, and .* cannot be reached. What can be done: give the folder of'),
    ('network', None, 'error: network: must be given in ')])
def test_domains_say_which_weights_are_not_on_this_machine(section, values, message, options, folder, tmp_path, capsys):
    given = yaml.safe_load(options.read_text())
    given[section] = values
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(given))
    checkpoint = tiny_checkpoint(tmp_path / 'rali.safetensors', 0)
    assert main(['analyse', 'domains', '-opt', str(tmp_path / 'options.yml'), '--sections', 'train_a', 'train_b',
                 '--checkpoint', str(checkpoint), '--out', str(tmp_path / 'out')]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_domains_start_from_the_network_that_the_option_file_starts_from(options, tmp_path):
    checkpoint = str(tiny_checkpoint(tmp_path / 'rali.safetensors', 0))
    values = yaml.safe_load(options.read_text())
    values['network']['image_encoder']['projection_dim'] = None
    fresh = weights_digest(encoders_of(values, checkpoint, 0)[VISUAL])
    values['path']['pretrain_network'] = checkpoint
    found = encoders_of(values, checkpoint, 0)
    assert weights_digest(found[VISUAL]) == weights_digest(found[ALIGNED]) != fresh


@pytest.mark.slow
def test_efficiency_is_measured_in_one_run(model, folder, options):
    image = next((options.parent / 'run' / 'data').glob('*.png'))
    checkpoint = tiny_checkpoint(folder / 'cost.safetensors', 0)
    assert main(['analyse', 'efficiency', '--rali', str(checkpoint), '--model', str(model), '--image', str(image),
                 '--repeats', '1', '--out', str(folder / 'efficiency')]) == 0
    rows = rows_of(folder / 'efficiency' / 'costs.csv')
    assert [row['metric'] for row in rows] == ['cost', 'reasoning model'] and float(rows[1]['median_ms_share']) == 1
    assert float(rows[0]['median_ms_share']) == pytest.approx(float(rows[0]['median_ms']) / float(rows[1]['median_ms']))
    weights = json.loads((folder / 'efficiency' / 'options.json').read_text())['weights_sha256']
    assert weights['cost'] == sha256(checkpoint) and weights['reasoning model'] == model_sha256(model)
    assert int(rows[0]['parameters']) > 0 and (folder / 'efficiency' / 'efficiency.png').stat().st_size > 0


def test_what_does_not_exist_is_an_empty_cell(tmp_path):
    folder = AnalysisFolder(tmp_path / 'new', 'domains', {'seed': 1})
    folder.table('table', [{'name': 'a', 'plcc': float('nan')}, {'name': 'b', 'plcc': 0.5}])
    assert (tmp_path / 'new' / 'table.csv').read_text() == 'name,plcc\na,\nb,0.5\n'
    folder.results({'rows': [{'plcc': float('nan'), 'n': 3}]})
    assert json.loads((tmp_path / 'new' / 'results.json').read_text()) == {'rows': [{'plcc': None, 'n': 3}]}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'letter.txt').write_text('x')
    with pytest.raises(OptionError, match='is not empty and holds no analysis'):
        AnalysisFolder(tmp_path, 'domains', {})


def test_a_folder_goes_on_with_the_same_weights_only(tmp_path):
    AnalysisFolder(tmp_path / 'new', 'domains', {'seed': 1}).check_weights({'a': '12', 'b': '34'})
    again = AnalysisFolder(tmp_path / 'new', 'domains', {'seed': 1})
    with pytest.raises(OptionError, match="was begun with another weights_sha256 of b: '34', now '56'. Give another folder"):
        again.check_weights({'a': '12', 'b': '56'})
    again.check_weights({'a': '12', 'b': '34'})
    assert json.loads((tmp_path / 'new' / 'options.json').read_text()) == {
        'kind': 'domains', 'seed': 1, 'weights_sha256': {'a': '12', 'b': '34'}}


def test_rows_survive_a_kill(tmp_path):
    rows = KeyedRows(tmp_path / 'rows.jsonl')
    rows.add([{'key': 'a', 'value': 1}, {'key': 'b', 'value': 2}])
    with open(rows.path, 'a') as stream:
        stream.write('{"key": "c", "va')
    again = KeyedRows(rows.path)
    assert set(again.done) == {'a', 'b'}
    again.add([{'key': 'c', 'value': 3}])
    assert set(KeyedRows(rows.path).done) == {'a', 'b', 'c'}
