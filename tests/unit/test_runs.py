"""The store: what folders were begun with, and rows that survive a kill at any byte."""

import json
import os
from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.runs import (
    EARLIER,
    CsvRows,
    Difference,
    JsonRows,
    KeyedRows,
    RowFile,
    claim_folder,
    claim_run,
    differences,
    read_claim,
    rows_of_steps,
)

COLUMNS = ['image', 'score', 'why']
# names of files: line ends, quotes, commas, and bytes that are not valid UTF-8 (as surrogates) among them
NAMES = st.text(st.one_of(st.sampled_from('\n\r",\' \udcff\udce9é字'), st.characters(exclude_categories=['Cs'])), max_size=6)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, NAMES)), min_size=1, max_size=3)
FORMATS = {'csv': CsvRows(COLUMNS), 'json': JsonRows(COLUMNS)}


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: None)  # thousands of files: a kill of the process is what is tested
        yield tmp_path_factory.mktemp('store') / 'rows'


def written(path, lines, rows):
    """The bytes of a file that was never interrupted."""
    path.unlink(missing_ok=True)
    RowFile(path, lines).add(rows)
    return path.read_bytes()


@pytest.mark.parametrize('lines', FORMATS.values(), ids=FORMATS)
@settings(max_examples=12, deadline=None)
@given(rows=ROWS)
@example(rows=[{'image': 'b\nc".png', 'score': '"', 'why': '\r'}, {'image': '', 'score': '\r\n', 'why': '""\n"'}])
def test_a_file_cut_at_any_byte_is_resumed_to_the_same_bytes(path, lines, rows):
    whole = written(path, lines, rows)
    assert list(RowFile(path, lines).read()) == rows
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        file = RowFile(path, lines)
        there = list(file.resume())
        assert there == rows[:len(there)] and (end < len(whole) or there == rows)
        file.add(rows[len(there):])
        assert path.read_bytes() == whole


@pytest.mark.parametrize('lines', FORMATS.values(), ids=FORMATS)
@settings(max_examples=30, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_run_killed_again_and_again_ends_with_the_same_rows(path, lines, rows, cuts):
    whole = written(path, lines, rows)
    path.unlink()
    for cut in cuts:
        file = RowFile(path, lines)
        there = list(file.resume())
        file.add(rows[len(there):])
        path.write_bytes(path.read_bytes()[:round(cut * len(whole))])
    file = RowFile(path, lines)
    file.add(rows[len(list(file.resume())):])
    assert path.read_bytes() == whole


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(NAMES, st.floats()), min_size=1, max_size=5), data=st.data())
def test_rows_of_steps_cut_anywhere_are_those_of_one_run(path, steps, data):
    rows = [{'step': step, 'text': text, 'loss': loss} for step, (text, loss) in enumerate(steps)]
    path.unlink(missing_ok=True)
    rows_of_steps(path, ['text', 'loss'], 0).add(rows)
    whole = path.read_bytes()
    path.write_bytes(whole[:data.draw(st.integers(0, len(whole)))])
    kept = len(list(RowFile(path, CsvRows()).read()))
    start = data.draw(st.integers(0, kept))
    rows_of_steps(path, ['text', 'loss'], start).add(rows[start:])
    assert path.read_bytes() == whole


def test_a_half_row_is_removed_also_when_nothing_follows(path):
    path.write_bytes(b'image,score,why\r\na,1,\r\n"b\nc",2')
    assert [row['image'] for row in RowFile(path, FORMATS['csv']).read()] == ['a'] and path.read_bytes().endswith(b',2')
    assert [row['image'] for row in RowFile(path, FORMATS['csv']).resume()] == ['a']
    assert path.read_bytes() == b'image,score,why\r\na,1,\r\n'


def test_a_stray_quote_in_a_row_that_others_wrote_costs_no_row(path):
    path.write_bytes(b'image,score,why\r\n5" disk.png,1,\r\nb,2,\r\nc,3,\r\nhalf')
    assert [row['score'] for row in RowFile(path, FORMATS['csv']).resume()] == ['1', '2', '3']
    assert path.read_bytes().endswith(b'c,3,\r\n')


@pytest.mark.parametrize(('lines', 'rows'), [('csv', b'image,score,why\r\na,1,\r\n\r\nb,2,\r\n'), (
    'json', b'{"image": "a", "score": "1", "why": ""}\n\n{"image": "b", "score": "2", "why": ""}\n')])
def test_empty_lines_hold_no_rows(path, lines, rows):
    path.write_bytes(rows)
    assert [row['image'] for row in RowFile(path, FORMATS[lines]).resume()] == ['a', 'b'] and path.read_bytes() == rows


@pytest.mark.parametrize(('lines', 'content', 'message'), [
    ('csv', b'image,score,why\r\na,1,\r\n"b,2,\r\nc,3,\r\nd,4,\r\n', 'line 3 of .* is damaged: a quote is opened and never'),
    ('csv', b'name,mos\na,1\n', r"--out: .*rows is not a table: its first line is 'name,mos', not 'image,score,why'. Give"),
    ('csv', b'a letter', "its first line is 'a letter'"),
    ('csv', b'image,score,why\r\na,1\r\n', r"line 2 of .*\['a', '1'\]. Fix or remove it"),
    ('csv', b'image,score,why\r\na\rb,1,\r\n', 'line 2 of .* is damaged: new-line character'),
    ('json', b'image,score,why\n', "not '{\"image\": ' and so on"),
    ('json', b'{"image": "a"}\n', 'line 1 of .*rows is damaged'),
    ('json', b'{"image": "a", "sc\n{"image": "b"}\n', 'line 1 of .* is damaged: {"image": "a", "sc. Fix or remove it')])
def test_files_of_others_and_damaged_rows_are_named_and_left_alone(path, lines, content, message):
    path.write_bytes(content)
    file = RowFile(path, FORMATS[lines], option='--out', kind='a table')
    with pytest.raises(DataError, match=message):
        file.add([])
    assert path.read_bytes() == content


def test_a_full_disk_leaves_a_file_that_can_be_resumed(path, monkeypatch):
    rows = [{'image': name, 'score': '1', 'why': ''} for name in 'abc']
    whole = written(path, FORMATS['csv'], rows)
    written(path, FORMATS['csv'], rows[:1])
    with RowFile(path, FORMATS['csv']) as file:
        class Full:
            def write(self, content):
                os.write(real.fileno(), content[:4])
                raise OSError(28, 'No space left on device')

            def close(self):
                real.close()
        real, file._stream = file._stream, Full()
        with pytest.raises(OSError, match=r'cannot write .*rows: No space left'):
            file.add(rows[1:])
        assert path.read_bytes().endswith(b'b,1,')
        file.add(rows[1:])
    assert path.read_bytes() == whole


def test_a_file_that_is_kept_open_has_each_row_at_once(path):
    path.unlink(missing_ok=True)
    with RowFile(path, JsonRows(), durable=True) as file:
        for number in range(3):
            file.add([{'n': number}])
            assert len(list(RowFile(path, JsonRows()).read())) == number + 1
    with pytest.raises(KeyError, match='no such columns: other'):
        RowFile(path.with_name('new'), FORMATS['csv']).add([{'other': 1}])


def test_rows_by_key(path):
    path.unlink(missing_ok=True)
    KeyedRows(path, 'image').add([{'image': 'a', 'n': 1}, {'image': 'b', 'n': 2}])
    again = KeyedRows(path, lambda row: (row['image'], 0))
    again.add([{'image': 'a', 'n': 3}])
    assert again.done == {('a', 0): {'image': 'a', 'n': 3}, ('b', 0): {'image': 'b', 'n': 2}}
    assert KeyedRows(path, 'image').done['a']['n'] == 3


def test_columns_of_an_earlier_version_are_kept(path):
    path.write_text('step,old,loss\r\n1,9,0.5\r\n2,8,0.4\r\n')
    rows_of_steps(path, ['loss', 'new'], 2).add([{'step': 2, 'loss': 0.3, 'new': 1}])
    assert path.read_bytes() == b'step,loss,new,old\r\n1,0.5,,9\r\n2,0.3,1,\r\n'


def test_differences_name_their_place():
    before = {'a': {'b': {'c': 1}, 'd': [1, 2]}, 'gone': 1, 'same': (1, 2)}
    now = {'new': 0, 'a': {'b': {'c': 2}, 'd': [1, 3]}, 'same': [1, 2]}
    assert [(each.name, each.before, each.now) for each in differences(before, now)] == [
        ('new', None, 0), ('a: b: c', 1, 2), ('a: d', [1, 2], [1, 3]), ('gone', 1, None)]
    assert differences(before, now, ('new', 'gone', 'a:b', 'a:d')) == []
    assert differences({'seed': 0}, {'seed': 1}) == [Difference(('seed',), 0, 1)]


@pytest.mark.parametrize('name', ['record.json', 'record.yml'])
def test_a_folder_is_claimed_once(tmp_path, name):
    record = tmp_path / 'new' / name
    assert claim_folder(record, {'seed': 0, 'size': (1, 2), 'free': 1}, '--out', kind='thing') is None
    assert claim_folder(record, {'seed': 0, 'size': [1, 2], 'free': 2}, '--out', kind='thing', free=('free',)) == {
        'seed': 0, 'size': [1, 2], 'free': 1}
    assert claim_folder(record, {'seed': 0, 'size': [1, 2]}, '--out', free=('free',))['free'] == 2
    assert read_claim(record)['free'] == 2  # what this run does not know yet is kept
    with pytest.raises(OptionError, match=r'--out: .*new was begun with another seed: 0, now 5 \(and another size\). Give'):
        claim_folder(record, {'seed': 5, 'size': [1, 3]}, '--out', free=('free',))
    with pytest.raises(OptionError, match=f"another photos: '{'x' * 10}.*[.]{{3}}, now None. Try this"):
        record.write_text(json.dumps({'photos': 'x' * 1000}))
        claim_folder(record, {}, '--out', remedy='Try this')


def test_foreign_folders_and_broken_records_are_refused(tmp_path):
    (tmp_path / 'letter.txt').write_text('x')
    with pytest.raises(OptionError, match='--out: .* is not empty and holds no thing. Give a new folder'):
        claim_folder(tmp_path / 'record.json', {}, '--out', kind='thing')
    with pytest.raises(OptionError, match='is not empty and holds no thing'):
        claim_folder(tmp_path / 'letter.txt' / 'record.json', {}, '--out', kind='thing')
    for content in '[1', '"text"', '3':
        (tmp_path / 'record.json').write_text(content)
        with pytest.raises(DataError, match=r'record.json should say what its folder was begun with, and cannot be read'):
            read_claim(tmp_path / 'record.json')


@dataclass
class Align:
    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.98)
    steps: int = 10


@dataclass
class Options:
    name: str = 'run'
    align: Align = field(default_factory=Align)
    logger: dict = field(default_factory=lambda: {'figures': True})
    datasets: dict[str, Align] = field(default_factory=lambda: {'train': Align()})


@dataclass
class LaterAlign(Align):
    warmup: int = 0
    order: str = field(default='new', metadata={EARLIER: 'old'})


@dataclass
class LaterOptions(Options):
    align: LaterAlign = field(default_factory=LaterAlign)
    bank: Align = field(default_factory=Align)
    datasets: dict[str, LaterAlign] = field(default_factory=lambda: {'train': LaterAlign(order='old')})


def test_a_run_of_an_earlier_version_goes_on_with_what_that_version_did(tmp_path):
    claim_run(tmp_path / 'run', Options(), False, ())
    record = tmp_path / 'run' / 'options.yml'
    record.write_text(record.read_text() + 'gone: {x: 1}\n')
    for changes, message in (
            ({'order': 'new'}, 'order: was .old., is .new.. Its version did not have this option; write align: order: old'),
            ({'order': 'old', 'warmup': 5}, 'warmup: was 0, is 5. Its version did not have this option'),
            ({'order': 'old', 'lr': 1}, 'was 0.001, is 1. Use the same options, or use another name')):
        with pytest.raises(OptionError, match=message):
            claim_run(tmp_path / 'run', LaterOptions(align=LaterAlign(**changes)), True, ())
    with pytest.raises(OptionError, match='in "datasets": val: was None, is {'):
        sections = {'train': LaterAlign(order='old'), 'val': LaterAlign()}
        claim_run(tmp_path / 'run', LaterOptions(align=LaterAlign(order='old'), datasets=sections), True, ())
    claim_run(tmp_path / 'run', LaterOptions(align=LaterAlign(order='old')), True, ())
    assert set(yaml.safe_load(record.read_text())) == {'name', 'align', 'logger', 'datasets', 'bank'}


def test_a_run_goes_on_with_the_same_options_or_is_archived(tmp_path):
    root = tmp_path / 'run'
    claim_run(root, Options(), False, ('logger',))
    assert json.loads((root / 'versions.json').read_text())['python']
    claim_run(root, Options(logger={'figures': False}), True, ('logger', 'align:steps'))
    assert yaml.safe_load((root / 'options.yml').read_text())['logger'] == {'figures': False}
    with pytest.raises(OptionError, match='the options differ .* in "align": lr: was 0.001, is 0.5. Use the same options'):
        claim_run(root, Options(align=Align(lr=0.5)), True, ('logger',))
    for number in range(2, 4):
        claim_run(root, Options(align=Align(lr=0.5)), False, ())
        assert len(list(tmp_path.glob('run_archived_*'))) + 1 == number == len(list(tmp_path.iterdir()))
