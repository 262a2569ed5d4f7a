"""The alarms of a collapsing policy, and records that drop what an interrupted run wrote ahead."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.training.vlm import monitor
from pyiqa_rali.training.vlm.monitor import AlarmCallback, RecordCallback, SampleCallback, ValidationCallback
from pyiqa_rali.training.vlm.options import ReasoningValOptions
from pyiqa_rali.vlm.tables import Row

STATE = SimpleNamespace(is_world_process_zero=True, global_step=7)


@pytest.mark.parametrize(('logs', 'expected'), [
    ({'frac_reward_zero_std': 0.7}, ['same reward|one reward for all rollouts']), ({'frac_reward_zero_std': 0.6}, []),
    ({'entropy': 0.19}, ['entropy fell']), ({'entropy': 0.21}, []), ({'completions/clipped_ratio': 0.3}, ['cut off']),
    ({'completions/clipped_ratio': 0.2}, []), ({}, []),
    ({'frac_reward_zero_std': 1, 'entropy': 0.1, 'completions/clipped_ratio': 1}, ['one reward', 'entropy', 'cut off'])])
def test_signs_of_collapse(logs, expected):
    alarm = AlarmCallback()
    assert alarm.signs({'entropy': 1.0}) == []
    found = alarm.signs(logs)
    assert len(found) == len(expected)
    assert all(any(part in sign for part in wanted.split('|')) for sign, wanted in zip(found, expected, strict=True))


def test_each_sign_is_raised_once():
    alarm = AlarmCallback()
    with pytest.warns(UserWarning, match='step 7: more than 20% of the completions are cut off. Raise max_completion_length'):
        alarm.on_log(None, STATE, None, {'completions/clipped_ratio': 0.5})
    assert len(alarm.raised) == 1
    alarm.on_log(None, STATE, None, {'completions/clipped_ratio': 0.5})  # pytest turns no second warning into an error
    assert len(alarm.raised) == 1


def test_the_first_entropy_is_that_of_the_whole_run():
    alarm = AlarmCallback()
    alarm.on_train_begin(None, SimpleNamespace(log_history=[{'loss': 1.0}, {'entropy': 2.0}, {'entropy': 1.0}]), None)
    assert len(alarm.signs({'entropy': 0.3})) == 1
    alarm.on_train_begin(None, SimpleNamespace(log_history=[]), None)
    assert alarm.signs({'entropy': 0.3}) == []


def read(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


def test_rows_of_an_interrupted_run_are_written_again(tmp_path):
    for start_step, steps in ((0, (1, 2, 3)), (3, (3, 4))):
        record = RecordCallback(tmp_path / 'log.csv', ['loss', 'reward'], start_step, None)
        samples = SampleCallback(tmp_path / 'samples.csv', start_step)
        for step in steps:
            samples.watch(['a', 'b'], ['x/1.png', 'x/2.png'], ['score', 'degradation'], [2.0, None])
            for callback in (record, samples):
                callback.on_log(None, SimpleNamespace(is_world_process_zero=True, global_step=step), None,
                                {'loss': 0.5, 'reward': None if step == 4 else 1.0, 'other': 3})
    assert [(row['step'], row['reward']) for row in read(tmp_path / 'log.csv')] == [
        ('1', '1.0'), ('2', '1.0'), ('3', '1.0'), ('4', '')]
    assert [row['step'] for row in read(tmp_path / 'samples.csv')] == ['1', '1', '2', '2', '3', '3', '4', '4']
    assert [(row['image'], row['mos']) for row in read(tmp_path / 'samples.csv')][:2] == [('1.png', '2.000'), ('2.png', '')]


class Scorer:
    """Rates a picture by its first pixel, and keeps which batches it got."""

    def __init__(self):
        self.batches = []

    def describe(self, pictures):
        self.batches.append([picture.getpixel((0, 0))[0] for picture in pictures])
        return [SimpleNamespace(rating=float(level), status='parsed') for level in self.batches[-1]]


@pytest.mark.parametrize('world', [1, 2, 3, 8])
def test_processes_share_the_validation_batch_by_batch(tmp_path, monkeypatch, world):
    """Batches are those of one process, each is scored once, and the ratings come back in the order of the images."""
    rows = []
    for level in range(11):
        Image.new('RGB', (8, 8), (level, 0, 0)).save(tmp_path / f'{level}.png')
        rows.append(Row(str(tmp_path / f'{level}.png'), 'x', mos=3.0))
    shares, seen = [], []
    for rank in range(world):
        callback = ValidationCallback.__new__(ValidationCallback)
        callback.options, callback.scorer = ReasoningValOptions(batch_size=2), Scorer()
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', str(world))
        monkeypatch.setattr(monitor, 'gather', lambda own: shares.append(own) or [own])
        callback._describe(rows)
        seen += callback.scorer.batches
    monkeypatch.setattr(monitor, 'gather', lambda own: shares)
    assert [rating for rating, _ in callback._describe(rows)] == [float(level) for level in range(11)]
    assert sorted(seen) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]


def test_a_validation_without_all_ratings_is_told_and_ends_no_run(caplog):
    callback = ValidationCallback.__new__(ValidationCallback)
    callback.options = ReasoningValOptions()
    mos = np.array([1.0, 2.0, 3.0, 4.0])
    assert callback._correlations(mos, mos, 'val') == {'srcc': pytest.approx(1), 'plcc': pytest.approx(1)}
    found = callback._correlations(np.array([1.0, np.nan, 3.0, np.nan]), mos, 'val')
    assert found.keys() == {'srcc', 'plcc'} and all(np.isnan(value) for value in found.values())
    assert 'val: 2 of 4 images have no rating; no correlation is computed at this step' in caplog.text
