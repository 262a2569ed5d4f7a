"""Large jobs over addresses: workers, resumption, and no credential in a table, on the screen or in a log."""

import csv
import json

import numpy as np
import pytest

from pyiqa_rali.__main__ import main
from pyiqa_rali.cli import score
from pyiqa_rali.data.fetching import tries
from tests.integration.test_score_command import Brightness
from tests.stand_ins import Files, busy, running
from tests.unit.test_fetching import SECRET, png, row_file, tar

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tries, 'FIRST_PAUSE', 0.0)
    monkeypatch.setattr(score, 'make_metric', lambda *arguments: Brightness())


def table_of(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize('workers', [0, 2])
def test_a_list_of_addresses_becomes_a_table_without_credentials(tmp_path, capfd, workers):
    pictures = {f'/{index}.png': png(index + 1, (20, 24)) for index in range(10)}
    with running(Files(pictures, {'/3.png': [busy()], '/5.png': [busy(403)] * 9})) as server:
        lines = [f'{server.address}/{index}.png?X-Amz-Signature={SECRET}&id={index}' for index in (*range(10), 77)]
        (tmp_path / 'list.txt').write_text('\n'.join(lines))
        arguments = ['score', f'@{tmp_path}/list.txt', '-m', 'piqe', '--out', str(tmp_path / 's.csv'),
                     '--workers', str(workers), '--batch-size', '3', '--timeout', '60', '--log-format', 'json']
        assert main(arguments) == 1
        rows = table_of(tmp_path / 's.csv')
        assert [row['image'] for row in rows] == [f'{server.address}/{index}.png?id={index}' for index in (*range(10), 77)]
        assert {row['image'].partition('=')[2]: row['error'] for row in rows if row['error']} == {
            '5': 'cannot be fetched: the server answers 403: no permission',
            '77': 'cannot be fetched: the server answers 404: not found'}
        assert [float(row['score']) for row in rows if row['score']] == pytest.approx(
            [(index + 1) / 255 for index in range(10) if index != 5], rel=1e-4)
        server.faults.clear()
        (tmp_path / 'list.txt').write_text('\n'.join(line.replace(SECRET, 'signed-again') for line in lines))
        assert main([*arguments, '--retry-failed']) == 1
        assert [row['image'] for row in table_of(tmp_path / 's.csv') if row['error']] == [f'{server.address}/77.png?id=77']
    out, err = capfd.readouterr()
    assert SECRET not in out + err + (tmp_path / 's.csv').read_text() and all(json.loads(line) for line in err.splitlines())


def test_shards_and_tables_of_pictures_are_scored(tmp_path, capsys):
    (tmp_path / 'a.tar').write_bytes(tar(('x.png', png(10, (20, 24))), ('x.txt', b'')))
    row_file(tmp_path / 'b.parquet', [png(20, (20, 24)), png(30, (22, 24))])
    with running(Files({'/a.tar': (tmp_path / 'a.tar').read_bytes()})) as server:
        sources = [f'{server.address}/a.tar?token={SECRET}', str(tmp_path), str(tmp_path / 'b.parquet')]
        out = str(tmp_path / 's.jsonl')
        assert main(['score', *sources, '-m', 'piqe', '--workers', '2', '--out', out]) == 1  # the folder itself holds no image
        rows = [json.loads(line) for line in (tmp_path / 's.jsonl').read_text().splitlines()]
    assert [round(row['score'] * 255) for row in rows] == [10, 20, 30]
    assert SECRET not in (tmp_path / 's.jsonl').read_text() and rows[0]['image'].endswith('::x.png')
    told = capsys.readouterr().err
    assert f'NO IMAGE in {tmp_path}' in told and '2 of them may be shards: name them' in told and SECRET not in told
    assert np.isfinite([row['score'] for row in rows]).all()
