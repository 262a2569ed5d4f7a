import json
import logging
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import exit_status, score
from pyiqa_rali.core import messages
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.messages import log_progress, progress_bar
from pyiqa_rali.scoring.progress import Progress
from pyiqa_rali.scoring.sources import ImageSources, NamedImages, count_ahead
from tests.unit.test_given_pictures import Red

logger = logging.getLogger('pyiqa_rali.somewhere')


def records(capfd):
    """Every line of stderr, which must be JSON."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_everything_on_stderr_is_json(capfd):
    def work():
        logger.info('a message')
        print('a line\nand another', file=sys.stderr)
        sys.stderr.write('bar 1%\rbar 50%\rbar 100%\n')
        sys.stderr.write('no end')
        for _ in progress_bar(range(5), desc='align', unit='step'):
            pass
        print('a result')
        return 3
    assert exit_status('score', work, log_format='json') == 3
    out, err = capfd.readouterr()
    assert out == 'a result\n'
    found = [json.loads(line) for line in err.splitlines()]
    told = [each['message'] for each in found]
    assert told[:4] == ['a message', 'a line', 'and another', 'bar 100%']
    assert found[0]['logger'] == 'pyiqa_rali.somewhere' and found[0]['level'] == 'info'
    assert time.strptime(found[0]['time'][:19], '%Y-%m-%dT%H:%M:%S')
    progress = [each['progress'] for each in found if 'progress' in each]
    assert progress[-1]['done'] == progress[-1]['total'] == 5 and progress[-1]['what'] == 'align'
    assert progress[-1]['unit'] == 'step' and progress[-1]['per_second'] > 0 and progress[-1]['seconds_left'] == 0
    assert not isinstance(sys.stderr, messages._Records)


@pytest.mark.parametrize(('error', 'status'), [(OptionError('--x: 3 is wrong'), 2), (KeyboardInterrupt(), 130),
                                               (ZeroDivisionError('a fault'), 1)])
def test_errors_are_records_too(capfd, error, status):
    def work():
        raise error
    assert exit_status('score', work, log_format='json') == status
    found, = records(capfd)
    assert found['level'] == 'error' and found['message'].startswith('score: ')
    assert ('traceback' in found) == isinstance(error, ZeroDivisionError)


def test_text_stays_text(capfd):
    def work():
        logger.info('a message')
        raise OptionError('wrong')
    assert exit_status('score', work) == 2
    assert capfd.readouterr().err == 'a message\nscore: error: wrong\n'
    with pytest.raises(ZeroDivisionError):
        exit_status('score', lambda: 1 // 0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(score, 'make_metric', lambda *arguments: Red())
    for index in range(6):
        Image.fromarray(np.full((16, 20, 3), index, np.uint8)).save(tmp_path / f'{index}.png')
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    return tmp_path


def test_a_job_tells_speed_and_time_left(photos, capfd, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.scoring.progress.SECONDS_BETWEEN_LINES', 0.0)
    assert main(['score', str(photos), '-m', 'piqe', '--batch-size', '2', '--log-format', 'json', '--out',
                 str(photos / 's.csv')]) == 1
    found = records(capfd)
    progress = [each['progress'] for each in found if 'progress' in each]
    assert [each['done'] for each in progress] == [2, 4, 6, 7]
    assert all(each['per_second'] > 0 for each in progress) and progress[-1]['total'] in (None, 7)
    assert any('6 images scored' in each['message'] for each in found)


def test_wrong_options_are_told_before_anything_is_structured(capsys):
    with pytest.raises(SystemExit):
        main(['score', 'x', '--log-format', 'xml'])
    assert "invalid choice: 'xml'" in capsys.readouterr().err


def counted(sources):
    total = count_ahead(sources)
    for _ in range(500):
        if total() is not None:
            return total()
        time.sleep(0.01)
    return None


def test_the_total_is_counted_beside_the_work(photos, monkeypatch):
    assert counted(ImageSources([str(photos), str(photos / '0.png')])) == 8
    assert counted(NamedImages(['a.png', 'b.png'])) == 2
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    assert counted(ImageSources(['-'])) is None and counted(ImageSources(['https://host/a.png'])) is None


def test_progress_knows_what_is_left(caplog):
    with caplog.at_level(logging.INFO, 'pyiqa_rali'):
        log_progress(logger, 'score', 30, 120, 10.0, told='1 without a score')
        log_progress(logger, 'score', 30, None, 10.0)
    assert caplog.messages == ['score: 30 of 120 images, 3.0 images/s, 0:30 left, 1 without a score',
                               'score: 30 images, 3.0 images/s']
    assert caplog.records[0].progress['seconds_left'] == 30.0
    with Progress(total=lambda: 10, done=4) as progress:
        assert progress.in_all == 6
    assert Progress().in_all is None
