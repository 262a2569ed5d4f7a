import csv
import subprocess
import sys

import pytest

from pyiqa_rali.__main__ import main
from pyiqa_rali.evaluation.speed import measure_here


def test_the_table_has_times_memory_and_ratios(tmp_path, capsys):
    out = tmp_path / 'speed.csv'
    assert main(['benchmark', '-m', 'rali-lite', 'piqe', '--size', '96', '80', '--repeats', '3', '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert '96 x 80 pixels from a file, 1 threads' in printed and 'median of 3' in printed
    with open(out, newline='') as stream:
        lite, piqe = csv.DictReader(stream)
    assert lite['metric'] == 'rali-lite' and float(lite['median_ms']) > 0 and len(lite['seconds'].split()) == 3
    assert 3e6 < int(lite['parameters']) < 6e6 and int(piqe['parameters']) == 0
    assert 50 < float(lite['peak_mb']) < 5000 and float(piqe['ratio']) == 1


def test_a_metric_that_cannot_be_made_is_named(capsys):
    assert main(['benchmark', '-m', 'rali', '--repeats', '1']) == 2
    assert 'benchmark: rali failed: ' in capsys.readouterr().err


@pytest.mark.parametrize('arguments, message', [
    (['--repeats', '0'], '--repeats: 0 must be 1 at least'), (['--threads', '0'], '--threads: 0'),
    (['--size', '0', '5'], '--size: 0'), (['--image', '/gone.png'], '/gone.png: cannot be read as an image')])
def test_arguments_that_cannot_be_used(capsys, arguments, message):
    assert main(['benchmark', *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_peak_is_what_was_once_in_use():
    """In a process of its own: this one's peak may be far above what it uses now."""
    peaks = subprocess.run([sys.executable, '-c', """
from pyiqa_rali.evaluation.speed import peak_memory_mb
print(peak_memory_mb())
block = bytearray(b'x') * (150 * 2 ** 20)
del block
print(peak_memory_mb())"""], capture_output=True, text=True, check=True).stdout.split()
    assert 140 < float(peaks[1]) - float(peaks[0]) < 200


def test_this_process_can_be_measured_too(tmp_path):
    from PIL import Image
    Image.new('RGB', (40, 40), 'gray').save(tmp_path / 'gray.png')
    assert len(measure_here('piqe', str(tmp_path / 'gray.png'), 2, 1, 'cpu')['seconds']) == 2
