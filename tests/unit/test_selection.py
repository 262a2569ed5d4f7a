import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.fetching import FetchOptions
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.scoring.selected_files import copy_files, link_files, target_names, write_shards
from pyiqa_rali.scoring.selection import select, table_rows
from tests.stand_ins import Files, running

SCORES = [('a.png', 3.2), ('b.png', 4.1), ('c.png', None), ('d.png', 3.5), ('e.png', 2.0), ('f.png', 3.5), ('g.png', 4.9)]


def picture(value=0, form='PNG'):
    stream = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(stream, form)
    return stream.getvalue()


def write_table(path, rows, metric='rali-lite', interval=None):
    """Write a CSV of scores, as `score` does; with an interval of this half width."""
    columns = ['image', 'score', *(['low', 'high'] if interval else []), 'error', 'metric']
    lines = [','.join(columns)]
    for image, score in rows:
        ends = ['' if score is None else str(score + sign * interval) for sign in (-1, 1)] if interval else []
        cells = ['', *ends, 'broken'] if score is None else [str(score), *ends, '']
        lines.append(','.join([image, *cells, metric]))
    path.write_bytes('\r\n'.join([*lines, '']).encode())
    return path


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Seven pictures, one of them without a score."""
    monkeypatch.chdir(tmp_path)
    for index, (name, _) in enumerate(SCORES):
        (tmp_path / name).write_bytes(picture(index))
    return write_table(tmp_path / 's.csv', SCORES)


def names(selection):
    return ''.join(row.image[0] for row in selection.rows())


@pytest.mark.parametrize(('bar', 'expected', 'at_bar'), [
    ({'above': 3.5}, 'bg', 2), ({'above': 3.4}, 'bdfg', 0), ({'below': 3.5}, 'ae', 2), ({'above': 9}, '', 0),
    ({'best': 0.5, 'lower_better': False}, 'bdg', 2), ({'best': 0.5, 'lower_better': True}, 'ade', 2),
    ({'worst': 1 / 3, 'lower_better': False}, 'ae', 1), ({'best': 1.0, 'lower_better': False}, 'abdefg', 1)])
def test_what_clears_a_bar_is_kept_in_the_order_of_the_table(table, bar, expected, at_bar):
    found = select(table, **bar)
    assert names(found) == expected
    assert (found.kept, found.left, found.without, found.at_bar) == (len(expected), 6 - len(expected), 1, at_bar)


def test_a_bar_says_what_clears_it(table):
    assert str(select(table, above=3.5).bar) == 'the score is above 3.5'
    assert str(select(table, best=0.5, lower_better=False).bar) == 'the score is 3.5 or above'


def test_just_above_and_just_below(table):
    found = select(table, above=3.5, near=2)
    assert [row.image for row in found.just_above] == ['b.png', 'g.png']
    assert [row.image for row in found.just_below] == ['d.png', 'f.png']


@pytest.mark.parametrize(('bar', 'expected'), [({'above': 3.5}, 'g'), ({'below': 3.5}, 'e')])
def test_surely_means_the_whole_interval(table, tmp_path, bar, expected):
    path = write_table(tmp_path / 'i.csv', SCORES, interval=0.7)
    assert names(select(path, surely=True, **bar)) == expected
    with pytest.raises(OptionError, match='--surely: .* has no interval for a.png'):
        select(table, surely=True, **bar)


def test_every_format_and_folders_of_parquet_are_read(table, tmp_path):
    expected = list(table_rows(table))
    rows = [{'image': name, 'score': score, 'error': '', 'metric': 'rali-lite'} for name, score in SCORES]
    (tmp_path / 's.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    for number, part in enumerate((rows[:3], rows[3:])):
        (tmp_path / f'parts/{number:06d}').mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(part), tmp_path / f'parts/{number:06d}/part-{number}.parquet')
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 's.parquet')
    for name in ('s.jsonl', 'parts', 's.parquet'):
        assert list(table_rows(tmp_path / name)) == expected, name


@pytest.mark.parametrize(('change', 'message'), [
    (lambda path: write_table(path, [*SCORES, ('a.png', 1.0)]), '1 images have several rows: a run with --retry-failed'),
    (lambda path: path.write_bytes(path.read_bytes() + b'x.png,1,,piqe\r\n'), 'scores of several metrics, piqe and rali-lite'),
    (lambda path: write_table(path, [('a.png', None)]), 'no image has a score'),
    (lambda path: path.write_bytes(b'image,mos\r\na.png,1\r\n'), 'has no column score, metric'),
    (lambda path: path.write_bytes(b'image,score,error,metric\r\na.png,one,,piqe\r\n'), 'the row of a.png holds what is'),
    (lambda path: (path.parent / 's.csv.parts').mkdir(), 'the rows of a run that was not finished')])
def test_tables_that_say_too_little_are_rejected(table, change, message):
    change(table)
    with pytest.raises(DataError, match=message):
        select(table, above=1)


@pytest.mark.parametrize(('bar', 'message'), [
    ({}, 'give exactly one'), ({'above': 1, 'best': .1}, 'give exactly one'),
    ({'best': 0.1, 'lower_better': False}, '0.1 of 6 images is less than one'),
    ({'best': 1.5, 'lower_better': False}, '--best: 1.5 must be a share'),
    ({'best': 0.5, 'surely': True, 'lower_better': False}, '--surely: goes with'),
    ({'above': float('nan')}, '--above: nan must be a finite number'), ({'below': float('inf')}, '--below: inf must be'),
    ({'worst': 0.5}, '--worst: whether high or low scores of rali-lite are good is not known')])
def test_bars_that_cannot_be_applied_are_rejected(table, bar, message):
    with pytest.raises(OptionError, match=message):
        select(table, **bar)


@pytest.mark.parametrize('written', ['nan', 'NaN', 'inf', '-inf'])
def test_scores_that_are_no_finite_numbers_are_none(table, written):
    table.write_text(table.read_text().replace('c.png,,', f'c.png,{written},'))
    for bar in ({'above': 3.4}, {'best': 4 / 6, 'lower_better': False}):
        found = select(table, **bar)
        assert names(found) == 'bdfg' and (found.kept, found.left, found.without) == (4, 2, 1)


def test_a_name_that_a_list_cannot_hold_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 's.csv').write_bytes(b'image,score,error,metric\r\n"a\nb.png",4,,m\r\nc.png,5,,m\r\n')
    assert main(['select', 's.csv', '--above', '1', '--list', 'l.txt']) == 1
    assert (tmp_path / 'l.txt').read_text() == 'c.png\n'
    assert "'a\\nb.png'\terror: a list cannot hold a name with a line break" in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--list', '--sheet'])
def test_the_table_itself_is_not_overwritten(table, option, capsys):
    before = table.read_bytes()
    assert main(['select', 's.csv', '--above', '3.4', option, '../' + table.parent.name + '/s.csv']) == 2
    assert f'{option}: ../{table.parent.name}/s.csv is the table itself' in capsys.readouterr().err
    assert table.read_bytes() == before


def test_names_below_a_folder():
    assert target_names(['/x/y/a.png', '/x/b.png']) == {'/x/y/a.png': 'y/a.png', '/x/b.png': 'b.png'}
    assert target_names(['s3://b/d/a.png', '../c.png']) == {'s3://b/d/a.png': 's3/b/d/a.png', '../c.png': '__/c.png'}
    assert target_names(['only/one.png']) == {'only/one.png': 'one.png'}


def test_the_command_lists_links_and_copies(table, tmp_path, capsys):
    assert main(['select', 's.csv', '--above', '3.4', '--list', 'l.txt', '--links', 'links', '--copies', 'copies',
                 '--sheet', 'bar.png']) == 0
    told = capsys.readouterr().err
    assert '4 images kept: the score is above 3.4 (rali-lite); 2 not, 1 without a score' in told
    assert (tmp_path / 'l.txt').read_text().split() == ['b.png', 'd.png', 'f.png', 'g.png']
    for name in ('b.png', 'd.png', 'f.png', 'g.png'):
        assert os.path.realpath(tmp_path / 'links' / name) == str(tmp_path / name)
        assert (tmp_path / 'copies' / name).read_bytes() == (tmp_path / name).read_bytes()
    with Image.open(tmp_path / 'bar.png') as sheet:
        assert sheet.width > 500
    assert main(['select', 's.csv', '--best', '50%']) == 0
    assert capsys.readouterr().out == 'b.png\nd.png\ng.png\n'
    assert main(['select', 's.csv', '--above', '3.4', '--copies', 'copies']) == 2
    assert '--copies: copies already exists' in capsys.readouterr().err


def test_what_cannot_be_written_is_told(table, tmp_path, capsys):
    (tmp_path / 'b.png').unlink()
    assert main(['select', 's.csv', '--above', '4', '--copies', 'copies']) == 1
    assert 'b.png\terror: No such file or directory' in capsys.readouterr().err
    assert os.listdir(tmp_path / 'copies') == ['g.png']
    assert link_files('links', select(table, above=4)).errors == {'b.png': 'it is not there any more'}


@pytest.mark.parametrize(('label', 'expected'), [('piqe', 'lower'), ('rali-lite', 'higher'),
                                                 ('rali-lite backend=onnx', 'higher'), ('rali@0af31c20', None),
                                                 ('rali:gone.pth@0af31c20', None), ('mine', None)])
def test_which_scores_are_good_is_known_or_asked_for(table, tmp_path, label, expected, capsys):
    write_table(table, SCORES, metric=label)
    status = main(['select', 's.csv', '--best', '20%'])
    if expected is None:
        assert status == 2 and 'give --better higher or --better lower' in capsys.readouterr().err
        assert main(['select', 's.csv', '--best', '20%', '--better', 'lower']) == 0
    assert capsys.readouterr().out == ('g.png\n' if expected == 'higher' else 'e.png\n')


def shard(path, *members):
    with tarfile.open(path, 'w') as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """A table about a file, two shards with captions, a Parquet file, and an address."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.png').write_bytes(picture(1))
    shard('s.tar', ('x/0.jpg', picture(2, 'JPEG')), ('x/0.txt', b'caption 0'), ('x/1.png', picture(3)), ('x/1.cls', b'7'))
    shard('t.tar', ('0.png', picture(4)), ('0.txt', b'again'), ('0.png', picture(5)))
    parquet.write_table(pa.table({'image': [picture(6), picture(7, 'JPEG')]}), 'p.parquet')
    with running(Files({'/u.png': picture(8)})) as server:
        kept = ['a.png', 's.tar::x/0.jpg', 's.tar::x/1.png', 't.tar::0.png', 't.tar::0.png::2', 'p.parquet::1',
                f'{server.address}/u.png', 't.tar::gone.png']
        yield write_table(tmp_path / 's.csv', [*((name, 4.0) for name in kept), ('p.parquet::0', 1.0)])


QUICK = ReadingOptions(fetching=FetchOptions(60, 0))


def test_copies_come_from_shards_tables_and_addresses(mixed, tmp_path):
    written = copy_files('copies', select(mixed, above=3), QUICK)
    assert written.count == 7 and written.errors == {'t.tar::gone.png': 'it is not there any more'}
    found = {str(path.relative_to(tmp_path / 'copies')): int(np.asarray(Image.open(path))[0, 0, 0])
             for path in (tmp_path / 'copies').rglob('*') if path.is_file()}
    address = next(name for name in found if name.startswith('http'))
    assert found.pop(address) == 8
    assert found == {'a.png': 1, 's.tar/x/0.jpg': 2, 's.tar/x/1.png': 3, 't.tar/0.png': 4, 't.tar/0.2.png': 5,
                     'p.parquet/1.jpg': 7}
    with pytest.raises(OptionError, match='--links: 7 of the images are in shards or at addresses'):
        link_files('links', select(mixed, above=3))


def test_new_shards_have_captions_names_and_scores(mixed, tmp_path):
    written = write_shards('out', select(mixed, above=3), 4, QUICK)
    assert (written.count, written.files, list(written.errors)) == (7, 2, ['t.tar::gone.png'])
    members = {}
    for name in ('000000.tar', '000001.tar'):
        with tarfile.open(tmp_path / 'out' / name) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    assert members['000000001.jpg'] == picture(2, 'JPEG') and members['000000001.txt'] == b'caption 0'
    assert members['000000002.cls'] == b'7'
    assert json.loads(members['000000001.score.json']) == {'image': 's.tar::x/0.jpg', 'score': 4.0, 'metric': 'rali-lite'}
    assert members['000000003.txt'] == b'again' and members['000000004.png'] == picture(5)
    assert members['000000005.jpg'] == picture(7, 'JPEG') and members['000000006.png'] == picture(8)
    assert len(members) == 7 * 2 + 3
    from pyiqa_rali.scoring.sources import ImageSources
    assert len(list(ImageSources(['out/{000000..000001}.tar']))) == 7
