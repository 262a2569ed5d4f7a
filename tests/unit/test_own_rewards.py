"""Reward functions of users: found by name, and checked at every call."""

import sys

import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.vlm.options import RewardOptions, check_rewards
from pyiqa_rali.training.vlm.own_rewards import load_own_reward, own_reward_files
from pyiqa_rali.training.vlm.reward_functions import reward_functions
from pyiqa_rali.vlm.prompts import ReasoningCard

MODULE = """
def half(completions, mos, **columns):
    return [0.5 if each > 3 else None for each in mos]

def short(completions, **columns):
    return [1.0]

def words(completions, **columns):
    return ['good' for _ in completions]

def endless(completions, **columns):
    return [float('nan') for _ in completions]

async def later(completions, **columns):
    return [1.0 for _ in completions]

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / 'rewards_of_mine.py').write_text(MODULE)
    (tmp_path / 'broken_rewards.py').write_text('import nothing_of_that_name')
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop('rewards_of_mine', None)


def test_it_is_called_with_the_columns_and_comes_last():
    options = RewardOptions(format=1.0, functions={'rewards_of_mine:half': 0.25})
    functions, weights = reward_functions(options, ReasoningCard())
    assert [function.__name__ for function in functions] == ['format', 'half'] and weights == [1.0, 0.25]
    assert functions[-1](completions=['a', 'b'], mos=[4, 2], task=['score', 'score']) == [0.5, None]


@pytest.mark.parametrize(('name', 'message'), [
    ('rewards_of_mine', 'must be module:function'), ('rewards_of_mine:', 'must be module:function'),
    ('no_module:half', 'no_module cannot be imported (ModuleNotFoundError'), ('broken_rewards:half', 'nothing_of_that_name'),
    ('rewards_of_mine:haf', 'has no function haf; it has half, short, words, endless, later. Did you mean "half"?'),
    ('rewards_of_mine:NUMBER', 'has no function NUMBER'), ('rewards_of_mine:later', 'has no function later')])
def test_what_cannot_be_found_is_named(name, message):
    with pytest.raises(OptionError) as raised:
        load_own_reward(name)
    assert str(raised.value).startswith(f'rewards: functions: "{name}"') and message in str(raised.value)


@pytest.mark.parametrize(('name', 'message'), [
    ('short', 'returned 1 rewards for 2 completions'), ('words', "returned 'good'; each reward must be a finite number"),
    ('endless', 'returned nan')])
def test_what_it_returns_is_checked(name, message):
    with pytest.raises(OptionError, match=message):
        load_own_reward(f'rewards_of_mine:{name}')(completions=['a', 'b'])


def test_two_rewards_of_one_name_are_refused():
    for names in (['a:half', 'b:half'], ['a:format']):
        with pytest.raises(OptionError, match='names two rewards'):
            check_rewards(RewardOptions(functions=dict.fromkeys(names, 1.0)))


def test_a_function_alone_is_a_reward():
    check_rewards(RewardOptions(format=0.0, functions={'a:half': 1.0}))
    with pytest.raises(OptionError, match='must be above 0'):
        check_rewards(RewardOptions(format=0.0))


def test_its_file_is_part_of_the_record(module):
    assert own_reward_files(['rewards_of_mine:half']) == {
        'rewards: functions: rewards_of_mine:half': module / 'rewards_of_mine.py'}
