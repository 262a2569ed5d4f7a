"""Lines and bars: none for those who call the library, plain ones at the commands."""

import logging
import sys

import pytest

from pyiqa_rali.cli import exit_status
from pyiqa_rali.core.messages import LOGGER, are_shown, bars_of_transformers, messages_shown, progress_bar

logger = logging.getLogger('pyiqa_rali.training.anything')


def work(steps=3):
    for step in progress_bar(range(steps), desc='align', unit='step'):
        logger.info('step %d', step)
    logger.warning('the end')


def test_the_library_shows_nothing_unless_it_is_told_to(capfd, caplog):
    assert not are_shown()
    work()
    assert capfd.readouterr() == ('', '')
    with caplog.at_level(logging.INFO, LOGGER.name):
        assert are_shown()
        work()
    assert 'step 2' in caplog.messages and 'align: 100%' in capfd.readouterr().err


@pytest.mark.parametrize('on_stdout', [True, False])
def test_a_command_shows_plain_lines_and_bars(capfd, on_stdout):
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    assert exit_status('train', work, on_stdout) == 0
    out, err = capfd.readouterr()
    lines = 'step 0\nstep 1\nstep 2\n'
    assert out == (lines if on_stdout else '') and 'align: 100%' in err
    assert ('step 1' in err) != on_stdout and 'the end\n' in err
    assert (LOGGER.handlers, LOGGER.level, LOGGER.propagate) == before and not are_shown()


def test_a_command_within_a_command_says_things_once(capfd):
    with messages_shown(on_stdout=True), messages_shown():
        logger.info('once')
    assert capfd.readouterr() == ('once\n', '') and not are_shown()


def test_bars_can_be_hidden_at_commands_too(capfd):
    with messages_shown():
        list(progress_bar(range(2), disable=True))
    assert capfd.readouterr() == ('', '')


def test_bars_of_transformers_follow(monkeypatch):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as theirs

    @bars_of_transformers()
    def seen():
        return theirs.is_progress_bar_enabled(), not are_progress_bars_disabled()

    before = theirs.is_progress_bar_enabled(), not are_progress_bars_disabled()
    assert seen() == (False, False) and before == (theirs.is_progress_bar_enabled(), not are_progress_bars_disabled())
    with messages_shown():
        assert seen() == before
    theirs.disable_progress_bar()
    try:
        assert seen() == (False, False) and not theirs.is_progress_bar_enabled()
    finally:
        theirs.enable_progress_bar()


def test_a_reader_that_has_seen_enough_is_told_as_with_print(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    with messages_shown(on_stdout=True), pytest.raises(BrokenPipeError):
        monkeypatch.setattr(sys, 'stdout', Closed())
        logger.info('more')
