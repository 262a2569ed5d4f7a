"""Every option file of the repository is one that its trainer takes, and names nothing that is not there."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.data.sections import LabelledOptions, dataset_section
from pyiqa_rali.evaluation.options import evaluate_options
from pyiqa_rali.studies.ablation.plan import ablation_options, plan
from pyiqa_rali.studies.carry import carry_options
from pyiqa_rali.studies.cascade import cascade_options
from pyiqa_rali.studies.chain.options import chain_options
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.rali.run_checks import choosing_sections
from pyiqa_rali.training.vlm.options import grpo_options, sft_options
from pyiqa_rali.training.vlm.ract import ract_options

FOR_PYIQA = ('metric_rali', 'data_papers')  # pyiqa's own format; see test_benchmark_script.py and test_manifests.py
DATA_SETS = ('evaluate_levels',)  # sections of data sets alone, for `analyse levels`
OPTIONS = Path(__file__).parents[2] / 'options'
FILES = sorted(path for path in OPTIONS.rglob('*.yml') if path.stem not in (*FOR_PYIQA, *DATA_SETS))
READERS = {'RALI': train_options, 'GRPO': grpo_options, 'SFT': sft_options, 'CHAIN': chain_options, 'RACT': ract_options,
           'EVALUATE': evaluate_options, 'ABLATION': ablation_options, 'CARRY': carry_options, 'CASCADE': cascade_options}


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_is_taken(path):
    values = read_yaml(path)
    options = READERS[values['model_type']](values)
    for section, table in getattr(options, 'datasets', {}).items():
        if isinstance(table, dict | LabelledOptions):
            given = table if isinstance(table, dict) else table.given()
            assert dataset_section(section, given if 'pyiqa_name' in given else {'name': section, **given}).scale
    if values['model_type'] == 'RACT':
        student = {'name': 'student', 'manual_seed': 0, **values['student'], 'datasets': {'train': {}}}
        assert sft_options(student).network.train == 'vision' and Path(FILES[0].parents[1] / values['teacher']).name
    if values['model_type'] == 'ABLATION':
        options.base = str(Path(__file__).parents[2] / options.base)
        places, cells = plan(options)  # every variant's options are checked
        assert len(options.repeats) >= 3 and len(cells) < len(places)


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_says_how_it_is_run(path):
    head = path.read_text().split('\nname:')[0]
    assert all(line.startswith('#') for line in head.splitlines()) and 'pyiqa_rali' in head


def test_there_are_all():
    names = {'rali', 'rali_siglip2', 'rali_lite', 'rali_ract', 'demo', 'chain', 'chain_distortions', 'grpo', 'grpo_rank',
             'grpo_lora', 'grpo_vision', 'ract', 'evaluate', 'evaluate_koniq', 'evaluate_four_sets', 'ablation',
             'ablation_koniq', 'biq2021', 'mmp2k', 'hybrid', 'people', 'cascade', 'cascade_people', 'evaluate_basis'}
    assert {path.stem for path in FILES} >= names


def test_the_papers_protocol_is_matched_with_its_table():
    from pyiqa_rali.evaluation.paper import paper_values, published_name
    methods, sets = (list(dict.fromkeys(names)) for names in zip(*paper_values(), strict=True))
    koniq, four_sets = (evaluate_options(read_yaml(OPTIONS / f'evaluate_{name}.yml')) for name in ('koniq', 'four_sets'))
    assert [published_name(None, [name], sets, 'x') for name in koniq.datasets] == sets[:7]
    assert list(four_sets.datasets) == [*sets[:7], 'TID2013'] == sets
    assert four_sets.metrics['RALI_four_sets']['paper_name'] is False
    student = four_sets.metrics['RACT']
    assert student['paper_name'] in methods and student['pretrained_model_path'].endswith('student/models/reasoning')
    assert {published_name(None, [label, values.get('name', label)], methods, 'x')
            for label, values in koniq.metrics.items()} == {'RALI', None}


def manifests_of(path):
    """The manifests of DeQA-Score in an option file, by whether they are trained on."""
    found = {True: set(), False: set()}
    values = read_yaml(path)
    for section, table in values.get('datasets', {}).items():
        if 'DeQA' in str(table.get('meta_info_file')):
            assert (table['mos_column'], table['mos_range'], table['lower_better']) == ('gt_score_norm', [1, 5], False)
            trained_on = values['model_type'] == 'RACT' or section.split('_')[0] in ('train', 'basis')
            found[trained_on].add(Path(table['meta_info_file']).name)
    return found


def test_what_is_trained_on_and_what_is_tested_on_are_parts_of_one_split():
    """DeQA-Score's: the splits in pyiqa's tables are others, and would train on its test images."""
    found = {path.stem: manifests_of(path) for path in FILES}
    four = {'train_koniq_7k.json', 'train_spaq_9k.json', 'train_kadid_8k.json', 'train_pipal_19k.json'}
    assert found['ract'][True] == found['rali_ract'][True] == four
    for name in ('rali', 'rali_siglip2', 'grpo', 'grpo_lora', 'grpo_vision', 'grpo_rank'):
        assert found[name][True] == {'train_koniq_7k.json'}
    for name, manifests in found.items():
        assert all(each.startswith('train_') for each in manifests[True]), name
        assert all(each.startswith('test_') for each in manifests[False]), name
    assert len(found['evaluate_koniq'][False]) == len(found['evaluate_four_sets'][False]) == 6
    for name in ('ract', 'rali_ract'):  # no split of pyiqa's beside them but KonIQ's official one
        tables = read_yaml(OPTIONS / f'{name}.yml')['datasets']
        assert {table['pyiqa_name'] for table in tables.values() if 'pyiqa_name' in table} <= {'koniq10k'}


def test_published_values():
    from pyiqa_rali.evaluation.paper import MEASURES, paper_values
    values = paper_values()
    assert {row['fit'] for row in values.values()} == set(MEASURES)
    assert {method: row['fit'] for (method, _), row in values.items() if row['fit'] != 'unknown'} == {
        'RALI': 'none', 'DeQA-Score': 'logistic4', 'CLIP-IQA+': 'logistic4'}
    mean = [float(row['plcc']) for (method, _), row in values.items() if method == 'RACT student']
    assert len(mean) == 8 and sum(mean) / 8 == pytest.approx(0.855, abs=5e-4)  # the average that the paper states
    assert values['VisualQuality-R1', 'CSIQ']['srcc'] == '.662'
    for method, average in (('RALI', 0.798), ('Q-Insight', 0.806)):
        found = [float(row['plcc']) for (name, _), row in values.items() if name == method]
        assert sum(found) / 7 == pytest.approx(average, abs=1e-3)


@pytest.mark.parametrize(('names', 'key_dataset', 'chosen'), [
    (['train', 'test', 'val', 'val_2'], None, ['val', 'val_2']), (['train', 'test', 'test_2'], None, ['test', 'test_2']),
    (['train', 'val', 'test'], 'test', ['test']), (['train', 'val', 'test'], ['val', 'test'], ['val', 'test']),
    (['train'], None, [])])
def test_test_sets_choose_the_epoch_only_where_they_are_asked_for_or_all_there_are(names, key_dataset, chosen):
    options = SimpleNamespace(datasets=dict.fromkeys(names), val=SimpleNamespace(key_dataset=key_dataset))
    assert choosing_sections(options) == chosen
