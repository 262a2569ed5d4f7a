"""Data set sections: what they are for, what may stand in them, and what pyiqa is given."""

import dataclasses
import doctest

import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import checked, from_known_keys, plain
from pyiqa_rali.core.runs import differences
from pyiqa_rali.data import sections
from pyiqa_rali.data.sections import (
    DatasetOptions,
    ManifestOptions,
    TableOptions,
    dataset_section,
    phase_of,
    sections_for,
)
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.training.rali.options import TrainOptions, train_options
from pyiqa_rali.training.rali.run_checks import check_sections
from pyiqa_rali.vlm.degradations import DegradationOptions

TABLE = {'name': 'koniq', 'type': 'GeneralNRDataset', 'dataroot_target': './images', 'meta_info_file': 'table.csv',
         'split_index': 'official_split', 'mos_range': [1, 100], 'lower_better': False}
RUN = {'name': 'run', 'manual_seed': 0, 'network': {}, 'align': {'total_iter': 1, 'lr': 1}, 'compress': {'num_basis': 2},
       'score': {}}


def read(values, section='train'):
    return from_known_keys(DatasetOptions.kind_of(values), values, f'datasets: {section}')


def test_the_examples_in_the_documentation_are_right():
    assert doctest.testmod(sections).attempted == 1 and not doctest.testmod(sections).failed


@pytest.mark.parametrize(('name', 'phase'), [
    ('train', 'train'), ('train_2', 'train'), ('basis', 'basis'), ('val_koniq_10k', 'val'), ('test', 'test'),
    ('test_', 'test'),
    ('trainer', None), ('KonIQ', None), ('', None), ('Train', None), ('2_val', None)])
def test_the_name_of_a_section_says_what_it_is_for(name, phase):
    assert phase_of(name) == phase
    assert sections_for([name, 'val_x', 'basis'], 'val', 'train') == [*([name] if phase in ('val', 'train') else []), 'val_x']


def test_a_section_says_which_images_pyiqa_takes():
    assert [dataset_section(name, TABLE).images for name in ('train_1', 'basis', 'val', 'test_b')] == [
        'train', 'train', 'val', 'test']
    assert dataset_section('val', {**TABLE, 'phase': 'test'}).images == 'test'


@pytest.mark.parametrize(('values', 'kind'), [
    ({}, TableOptions), ({'type': 'GeneralFRDataset'}, TableOptions), ({'type': 'SomebodysDataset'}, TableOptions),
    ({'type': 'ManifestNRDataset'}, ManifestOptions), ({'type': 'SyntheticNRDataset'}, SyntheticOptions),
    ({'type': 'DegradationTable'}, DegradationOptions)])
def test_the_type_says_what_may_stand_in_a_section(values, kind):
    options = from_known_keys(TrainOptions, {**RUN, 'datasets': {'train': values}})
    assert type(options.datasets['train']) is kind


@pytest.mark.parametrize(('change', 'message'), [
    ({'colour': 1}, 'unknown key "colour"; known are'), ({'format': 'deqa'}, 'unknown key "format"'),
    ({'type': 'ManifestNRDataset', 'fromat': 'deqa'}, 'unknown key "fromat".*Did you mean "format"'),
    ({'augment': {'rot90': True}}, 'augment: "rot90" is not one of hflip, vflip, random_crop, center_crop, resize'),
    ({'mos_range': [1]}, r'mos_range: \[1\] must have 2 elements'),
    ({'mos_range': [1, True]}, 'mos_range: element 2: True must'),
    ({'lower_better': 'no'}, "lower_better: 'no' must be of type bool, or ~"),
    ({'phase': 'dev'}, 'phase: "dev" is not one of'),
    ({'batch_size_per_gpu': 0}, 'batch_size_per_gpu: 0 must be at least 1'), ({'name': ''}, 'name: must hold at least one'),
    ({'num_worker_per_gpu': -1}, 'num_worker_per_gpu: -1 must be at least 0'), ({'pixel_limit': 0}, 'pixel_limit: 0 must be'),
    ({'type': 'SyntheticNRDataset'}, 'unknown key "dataroot_target"'), ({'split_index': 1.5}, 'split_index: 1.5 must be')])
def test_what_cannot_stand_in_a_section(change, message):
    with pytest.raises(OptionError, match=f'^datasets: train: {message}'):
        train_options({**RUN, 'datasets': {'train': {**TABLE, **change}}})


@pytest.mark.parametrize(('change', 'message'), [
    ({'class_column': 'fault'}, 'class_column: has no effect in the training of RALI. Remove it'),
    ({'paper_name': False}, 'paper_name: has no effect'), ({'name': None}, 'needs name and type'),
    ({'pyiqa_name': 'koniq'}, 'pyiqa_name: "koniq" is not a data set that pyiqa knows .*Did you mean "koniq10k')])
def test_sections_that_rali_cannot_train_on(change, message):
    with pytest.raises(OptionError, match=f'^datasets: train: {message}'):
        check_sections(train_options({**RUN, 'datasets': {'train': {**TABLE, **change}}}))


def test_scores_are_needed():
    with pytest.raises(OptionError, match='^datasets: train: type: DegradationTable has no MOS'):
        dataset_section('train', {'name': 'dq', 'type': 'DegradationTable'})
    for key in ('mos_range', 'lower_better'):
        with pytest.raises(OptionError, match=f'^datasets: val: {key}: must be given; it is never guessed'):
            _ = dataset_section('val', {**TABLE, key: None}).scale


def test_pyiqa_fills_in_what_is_not_given_and_an_empty_value_is_given():
    known = dataset_section('test', {'pyiqa_name': 'koniq10k', 'mos_range': [0, 100]})
    assert known.options.name == 'KonIQ10k' and known.scale.mos_range == (0, 100)
    assert known.for_pyiqa()['split_index'] == 'official_split' and 'pyiqa_name' not in known.for_pyiqa()
    every = dataset_section('test', read({'pyiqa_name': 'koniq10k', 'split_index': None}))
    assert every.for_pyiqa()['split_index'] is None


def test_pyiqa_is_given_its_own_keys_alone_and_leaves_the_mos_as_they_are():
    values = {**TABLE, 'augment': {'hflip': True}}
    ours = {'reasoning_texts': 'texts.jsonl', 'batch_size_per_gpu': 4, 'class_column': 'a'}
    assert dataset_section('basis', {**values, **ours}).for_pyiqa() == {**values, 'phase': 'train', 'mos_normalize': False}


def test_what_was_given_is_written_down_and_nothing_else():
    values = {**TABLE, 'upright': True, 'augment': None}  # both are the defaults
    options = train_options({**RUN, 'datasets': {'train': values, 'val': {'type': 'SyntheticNRDataset', 'name': 's'}}})
    assert plain(options)['datasets'] == {'train': values, 'val': {'type': 'SyntheticNRDataset', 'name': 's'}}
    assert not differences({'datasets': {'train': values}}, {'datasets': {'train': plain(checked(options).datasets['train'])}})


def test_sections_made_in_python_are_those_of_a_file():
    made = TableOptions(name='koniq', type='GeneralNRDataset', dataroot_target='./images', meta_info_file='table.csv',
                        split_index='official_split', mos_range=(1, 100), lower_better=False)
    assert made.given() == {**TABLE, 'mos_range': [1, 100]} and dataset_section('val', made).options == read(TABLE)
    options = train_options({**RUN, 'datasets': {'train': dataclasses.replace(made, batch_size_per_gpu=2)}})
    assert plain(options)['datasets']['train'] == {**TABLE, 'batch_size_per_gpu': 2}
