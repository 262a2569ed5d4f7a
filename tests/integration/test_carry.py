"""A study of what carries across data sets, at tiny scale: what is trained, what it is tested on, and how it is told."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.studies.carry import Carry, carry_options, sections_of
from pyiqa_rali.studies.carry_results import markdown, summarised, with_intervals
from tests.tiny import tiny_options


def with_test_part(source, target, factor):
    """Copy a tiny table with every other validation picture as a test picture, and MOS on another scale."""
    if source != target:
        shutil.copytree(source, target, dirs_exist_ok=True)
    lines = (source / 'meta_info.csv').read_text().splitlines()
    rows = [line.split(',') for line in lines[1:]]
    rewritten = [f'{name},{float(mos) * factor},{"test" if number % 6 == 0 else split}'
                 for number, (name, mos, split) in enumerate(rows)]
    (target / 'meta_info.csv').write_text('\n'.join([lines[0], *rewritten]))


def study(folder, **changes):
    """Return a study of the same tiny table under two names."""
    training = tiny_options(folder)
    table = training['datasets']['val']
    texts = training['datasets']['train']['reasoning_texts']
    other = folder / 'other'
    with_test_part(folder / 'data', folder / 'data', 1)
    with_test_part(folder / 'data', other, 20)
    second = {**table, 'dataroot_target': str(other), 'meta_info_file': str(other / 'meta_info.csv'), 'mos_range': [0, 100]}
    for values in (table, second):
        values.pop('name')
        values['batch_size_per_gpu'] = 4
    training = {name: value for name, value in training.items() if name not in ('name', 'manual_seed', 'datasets', 'path')}
    training['align'].update(cache_backbone=True, freeze_layers=-1)
    values = {
        'name': 'people', 'model_type': 'CARRY', 'seeds': [0, 1], 'path': {'experiments_root': str(folder / 'out')},
        'training': {**training, 'path': {}, 'val': {'overlap': 'count'}, 'logger': {'figures': False, 'use_tb_logger': False}},
        'encoders': {'tiny': {}},
        'sets': {'A': {'table': table, 'texts': {'verdict': texts}, 'whole_when_unseen': True},
                 'B': {'table': second, 'texts': {'verdict': texts, 'people': texts}}},
        'trained_on': {'A': ['A'], 'both': ['A', 'B'], 'B': ['B']},
        'arms': {'regression': {'texts': 'verdict',
                                'changes': {'align:contrastive_weight': 0, 'align:quality': {'plcc_weight': 1}}},
                 'texts': {'texts': 'verdict'}, 'people': {'texts': 'people', 'trained_on': ['B']}},
        'tests': {'third': {**second}}}
    return {**values, **changes}


def test_what_is_trained_on_is_tested_on_its_own_part_and_the_rest_whole(tmp_path):
    options = carry_options(study(tmp_path))
    sections, tested = sections_of(options, options.arms['texts'], ['B'])
    assert tested == {'test_1': 'A', 'test_2': 'B', 'test_3': 'third'}
    assert sections.keys() == {'train_1', 'val_1', 'test_1', 'test_2', 'test_3'}
    assert 'split_index' not in sections['test_1'] and sections['test_2']['split_index'] == 'split_photo'
    assert (sections['train_1']['phase'], sections['val_1']['phase'], sections['test_2']['phase']) == ('train', 'val', 'test')
    assert 'share' not in sections['train_1'] and sections['train_1']['batch_size_per_gpu'] == 4
    both, _ = sections_of(options, options.arms['texts'], ['A', 'B'])
    assert [both[f'train_{number}']['share'] for number in (1, 2)] == [0.5, 0.5]
    assert both['test_1']['split_index'] == 'split_photo'


def test_an_added_set_takes_its_share_of_each_step(tmp_path):
    drawn = {'type': 'SyntheticNRDataset', 'mos_range': [1, 5], 'lower_better': False}
    arms = {'hybrid': {'texts': 'verdict', 'added': ['drawn'], 'added_share': 0.4}}
    options = carry_options(study(tmp_path, added={'drawn': drawn}, arms=arms))
    sections, _ = sections_of(options, options.arms['hybrid'], ['A', 'B'])
    assert [sections[f'train_{number}']['share'] for number in (1, 2, 3)] == pytest.approx([0.3, 0.3, 0.4])
    assert sections['train_3'] == {'name': 'drawn', **drawn, 'share': 0.4}


@pytest.mark.parametrize(('changes', 'message'), [
    ({'trained_on': {'A': ['a']}}, r'trained_on: A: "a" is not one of A, B\.'),
    ({'arms': {'x': {'texts': 'people'}}}, r'arms: x: texts: A: "people" is not one of verdict'),
    ({'arms': {'x': {'texts': 'verdict', 'added': ['y']}}}, r'arms: x: added: "y" is not one of none'),
    ({'training': {'name': 'x'}}, 'training: name: is made by the study. Remove it.'),
    ({'arms': {'x': {'texts': 'verdict', 'added_share': 1}}}, 'added_share: 1.0 must be'),
    ({'trained_on': {'A': []}}, 'trained_on: A: must hold at least one'),
    ({'trained_on': {'both': ['A', 'A']}}, 'trained_on: both: A is named 2 times, and would count as often. Name it once.'),
    ({'seeds': [0, 1, 0]}, 'seeds: 0 is named 2 times'),
    ({'arms': {'x': {'texts': 'verdict', 'trained_on': []}}}, 'arms: x: trained_on: must hold at least one'),
    ({'tests': {'B': {'type': 'GeneralNRDataset'}}}, 'tests: B: is one of sets, which are all tested on'),
])
def test_names_that_are_not_there_are_told(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        carry_options(study(tmp_path, **changes))


def test_an_arm_whose_texts_are_not_there_is_told_before_anything_is_trained(tmp_path):
    values = study(tmp_path)
    values['sets']['B']['texts']['people'] = str(tmp_path / 'none.jsonl')
    with pytest.raises(OptionError, match=r'sets: B: texts: people: .*none.jsonl is not a file, and the arm "people" learns'):
        Carry(carry_options(values))
    assert not (tmp_path / 'out').exists()


def test_a_picture_that_changed_under_its_name_is_trained_with_again(tmp_path):
    def keys(values):
        return {(place.arm, place.trained_on, place.seed): place.cell.key for place in Carry(carry_options(values)).places}
    values = study(tmp_path)
    before = keys(values)
    assert keys(values) == before
    assert len(before) == 14
    for name, of in (('001.png', {'B', 'both'}), ('000.png', {'A', 'B', 'both'})):  # learned from, and tested on by all
        picture = tmp_path / 'other' / name
        content = picture.read_bytes()
        Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
        after = keys(values)
        assert {trained_on for _, trained_on, _ in before} == {'A', 'B', 'both'} and before.keys() == after.keys()
        assert all((after[place] != key) == (place[1] in of) for place, key in before.items())
        picture.write_bytes(content)
        assert keys(values) == before


def rows():
    values = {('regression', 0): 0.5, ('regression', 1): 0.6, ('texts', 0): 0.7, ('texts', 1): 0.65}
    return [{'encoder': 'tiny', 'arm': arm, 'trained_on': 'A', 'seed': seed, 'tested_on': name, 'in_domain': name == 'A',
             'images': 8, 'srcc': value - (name == 'B') * 0.3} for (arm, seed), value in values.items() for name in 'AB']


def test_seeds_are_put_together_and_compared_seed_by_seed(tmp_path):
    results = summarised(rows(), ['regression', 'texts'])
    found = {(result.arm, result.tested_on): result for result in results}
    assert found['texts', 'A'].srcc == (0.7, 0.65) and found['texts', 'A'].change == pytest.approx((0.2, 0.05))
    assert found['regression', 'B'].change == (0.0, 0.0) and not found['regression', 'B'].in_domain
    text = markdown(results, ['regression', 'texts'], ['A'], 2)
    assert '| A | regression | *.550 [.500, .600]* | .250 [.200, .300] |' in text
    assert '| A | texts | *.675 [.650, .700]* (+.125) | .375 [.350, .400] (+.125) |' in text


def test_intervals_of_changes_are_over_images_and_hold_both_arms_against_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    mos = rng.random(200)
    noisy = {seed: np.c_[mos, mos + rng.normal(0, 0.5, 200)] for seed in (0, 1)}
    better = {seed: np.c_[mos, mos + 0.4 * (table[:, 1] - mos)] for seed, table in noisy.items()}
    scores = {('tiny', 'A', name): {'regression': noisy, 'texts': better if name == 'A' else noisy} for name in 'AB'}
    results = with_intervals(summarised(rows(), ['regression', 'texts']), ['regression', 'texts'], scores)
    found = {(result.arm, result.tested_on): result.interval for result in results}
    assert found['regression', 'A'] is None and found['texts', 'B'] == (0, 0)
    low, high = found['texts', 'A']
    change = np.mean([stats.spearmanr(*better[seed].T)[0] - stats.spearmanr(*noisy[seed].T)[0] for seed in (0, 1)])
    assert 0 < low < change < high < low + 0.3
    text = markdown(results, ['regression', 'texts'], ['A'], 2)
    assert '(**+.125 [+' in text and '(+.125 [+.000, +.000])' in text


@pytest.mark.slow
def test_a_study_is_trained_told_and_continued(tmp_path, monkeypatch):
    planned = Carry(carry_options(study(tmp_path)))
    assert planned.summary() == '14 trainings; 14 are left.' and len({place.cell.key for place in planned.places}) == 12
    found = planned.run()
    with open(found.root / 'results.csv', newline='') as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == 14 * 3
    images = {(row['trained_on'], row['tested_on']): int(row['images']) for row in written}
    assert images['B', 'A'] == 24 and images['A', 'A'] == images['both', 'A'] == images['A', 'B'] == 4
    assert {row['in_domain'] for row in written if row['trained_on'] == 'both' and row['tested_on'] != 'third'} == {'True'}
    assert len(json.loads((found.root / 'results.json').read_text())) == 7 * 3 == len(found.results)
    assert (found.root / 'figures' / 'tiny.png').stat().st_size > 5000
    assert all((result.interval is None) == (result.arm == 'regression') for result in found.results)
    assert '| both | texts |' in (found.root / 'table.md').read_text()
    monkeypatch.setattr('pyiqa_rali.studies.carry.run_cell', lambda *arguments: pytest.fail('it is trained again'))
    again = Carry(carry_options(study(tmp_path)))
    assert again.summary() == '14 trainings; 0 are left.'
    assert np.array_equal([result.srcc for result in again.run().results], [result.srcc for result in found.results])
