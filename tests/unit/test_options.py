import importlib

import pytest

from pyiqa_rali.cli.arguments import CommandParser
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import override, read_yaml
from pyiqa_rali.training.rali.options import train_options

SMALLEST = {'name': 'run', 'manual_seed': 1, 'datasets': {'train': {}}, 'network': {}, 'align': {'total_iter': 3, 'lr': 1e-3},
            'compress': {'num_basis': 4}, 'score': {}}


def changed(section=None, **values):
    if section is None:
        return {**SMALLEST, **values}
    return {**SMALLEST, section: {**SMALLEST.get(section, {}), **values}}


def test_defaults_are_filled_in():
    options = train_options(SMALLEST)
    assert options.stages == ['align', 'compress', 'score'] and options.num_gpu == 'auto'
    assert options.val.metrics['srcc'] == {'type': 'calculate_srcc'}
    assert options.align.lr == 1e-3 and options.compress.num_basis == 4


@pytest.mark.parametrize(('values', 'message'), [
    (changed(seed=3), 'unknown key "seed"'),
    (changed('align', totel_iter=3), 'align: unknown key "totel_iter".*Did you mean "total_iter"'),
    (changed('align', lr='1e-4x'), "align: lr: '1e-4x' must be of type float"),
    (changed('align', total_iter=True), 'align: total_iter: True must be of type int'),
    (changed('align', loss='softmx'), 'align: loss: "softmx" is not one of softmax, sigmoid. Did you mean "softmax"'),
    (changed('align', amp='fp16'), 'align: amp: "fp16" is not one of ~, bfloat16, float16'),
    (changed('compress', num_basis=0), 'compress: num_basis: 0 must be at least 1'),
    (changed('score', temperature=0), 'score: temperature: 0.0 must be above 0'),
    (changed('text_encoder', library='clip'), 'text_encoder: library: "clip" is not one of open_clip, transformers'),
    (changed('val', key_metric='rmse'), 'val: key_metric: "rmse" is not one of srcc, plcc, krcc'),
    (changed(stages=['score', 'align']), r'must be some of \[.*\], in this order'),
    (changed(stages=['aline']), 'Did you mean "align"'),
    (changed(align={'lr': 1e-3}), 'align: total_iter must be given'),
    (changed(align=3), 'align: 3 must be a section with keys'),
    ({key: value for key, value in SMALLEST.items() if key != 'name'}, 'options: name must be given'),
])
def test_wrong_values_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        train_options(values)


@pytest.mark.parametrize(('text', 'message'), [
    ('name: a\nname: b\n', 'key "name" appears twice'),
    ('align:\n  lr: 1\n  lr: 2\n', 'key "lr" appears twice'),
    ('- a\n', 'holds no options'),
    ('a: [1', 'is not valid YAML'),
    ('a: !!python/object/apply:os.system [ls]\n', 'is not valid YAML'),
    ('', 'holds no options'),
])
def test_unreadable_files_are_refused(tmp_path, text, message):
    path = tmp_path / 'options.yml'
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OptionError, match='nothing.yml is not a file'):
        read_yaml(tmp_path / 'nothing.yml')


def test_a_section_takes_what_another_one_holds_and_its_own_keys_win(tmp_path):
    path = tmp_path / 'merged.yml'
    path.write_text('first: &first {kind: a, size: [1, 2], augment: {hflip: true}}\n'
                    'second: &second\n  <<: *first\n  kind: b\n'
                    'third:\n  kind: c\n  <<: [*second, {size: [9], extra: 1e-3}]\n')
    found = read_yaml(path)
    assert found['second'] == {**found['first'], 'kind': 'b'}
    assert found['third'] == {'kind': 'c', 'size': [1, 2], 'augment': {'hflip': True}, 'extra': 1e-3}
    changed = override(found, ['second:augment:hflip=false'])
    assert [changed[name]['augment']['hflip'] for name in ('first', 'second', 'third')] == [True, False, True]


@pytest.mark.parametrize('text', [
    'a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2\n',
    'a: &a {y: 1, y: 2}\nb: {<<: *a, y: 3}\n',
    '<<: &a {x: 1, y: 1, y: 2}\nname: b\n',
])
def test_a_key_that_appears_twice_beside_merged_ones_is_refused(tmp_path, text):
    path = tmp_path / 'merged.yml'
    path.write_text(text)
    with pytest.raises(OptionError, match='key "y" appears twice'):
        read_yaml(path)


def test_two_merges_in_one_section_are_refused(tmp_path):
    path = tmp_path / 'merged.yml'
    path.write_text('a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n')
    with pytest.raises(OptionError, match='key "<<" appears twice'):
        read_yaml(path)
    path.write_text('a: 3\nb:\n  <<: 3\n')
    with pytest.raises(OptionError, match='"<<" takes a section, or a list of sections'):
        read_yaml(path)


def test_numbers_with_exponents_are_numbers(tmp_path):
    path = tmp_path / 'options.yml'
    path.write_text('a: 1e-4\nb: 2E+3\nc: 1.5e-2\nd: !!float 1e-4\ne: 3\nf: ~\n')
    assert read_yaml(path) == {'a': 1e-4, 'b': 2000.0, 'c': 0.015, 'd': 1e-4, 'e': 3, 'f': None}


def test_overrides_replace_existing_values():
    found = override(SMALLEST, ['align:lr=5e-4', 'name=other', 'stages=[align]'] if 'stages' in SMALLEST else
                     ['align:lr=5e-4', 'name=other'])
    assert found['align']['lr'] == 5e-4 and found['name'] == 'other'
    assert SMALLEST['name'] == 'run'


def test_overrides_keep_the_order_of_the_file():
    found = override({'datasets': {'train_2': {'name': 'b'}, 'train_1': {'name': 'a'}}, 'align': {'lr': 1}}, ['align:lr=2'])
    assert list(found) == ['datasets', 'align'] and list(found['datasets']) == ['train_2', 'train_1']


def test_a_key_may_hold_colons():
    values = {'variants': {'no PCA': {'compress:pca_dim': 4}, 'loss: sigmoid': {'lr': 1}},
              'changes': {'datasets:*:split_index': 'a', 'lr': 1}, 'a:b': 1}
    found = override(values, ['variants:no PCA:compress:pca_dim=~', 'changes:datasets:*:split_index=b', 'a:b=2',
                              'changes:lr=3', 'variants:loss: sigmoid:lr=4'])
    assert found == {'variants': {'no PCA': {'compress:pca_dim': None}, 'loss: sigmoid': {'lr': 4}},
                     'changes': {'datasets:*:split_index': 'b', 'lr': 3}, 'a:b': 2}
    with pytest.raises(OptionError, match='names "dataset", which the option file does not have'):
        override(values, ['changes:dataset:*:split_index=b'])


@pytest.mark.parametrize(('command', 'needed'), [
    ('ablate', ['-opt', 'x']), ('add_bank', ['x', '-opt', 'x', '--out', 'x']), ('evaluate', ['-opt', 'x']), ('protocol', [])])
def test_overrides_may_be_given_one_by_one(command, needed):
    parser = CommandParser()
    importlib.import_module(f'pyiqa_rali.cli.{command}').add_arguments(parser)
    assert parser.parse_args([*needed, '--force_yml', 'a=1', '--force_yml', 'b=2', 'c=3']).force_yml == ['a=1', 'b=2', 'c=3']


@pytest.mark.parametrize(('entry', 'message'), [
    ('align:lrr=1', 'names "lrr".*Did you mean "lr"'),
    ('align', 'must be section:key=value'),
    ('name:x=1', '"name" is a value, not a section'),
])
def test_wrong_overrides_are_refused(entry, message):
    with pytest.raises(OptionError, match=message):
        override(SMALLEST, [entry])
