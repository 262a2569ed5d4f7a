import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.scoring import tables
from pyiqa_rali.scoring.parts import parts_folder
from pyiqa_rali.scoring.score_table import ImageScore, JsonLines, ScoreTable
from pyiqa_rali.scoring.tables import file_format, open_table

SCORES = [ImageScore(f'{index}.png', index / 8, '', (index, 0)) for index in range(7)]
SCORES[3] = ImageScore('\udce9.png', None, 'truncated', (3, 0))
NAMES = ('scores.csv', 'scores.jsonl', 'scores.parquet')


def run(path, scores, resume=False, merge=True, retry=False):
    """Write scores, without what stands in the table already, and finish the table."""
    table = open_table(str(path), None, 'm', resume, retry)
    with table.open() as stream:
        table.write(stream, [each for each in scores if not table.has(each.image)])
    if merge:
        table.finish()
    return table


def leave_parts(path, scores, count):
    """Leave the parts that `count` processes of version 0.1 left behind when they were killed."""
    folder = parts_folder(path)
    for rank in range(count):
        part = ScoreTable(folder / f'{rank:05d}-of-{count:05d}.jsonl', 'm', True, JsonLines(positions=True))
        with part.open() as stream:
            part.write(stream, scores[rank::count])
    return folder


def content(path):
    if path.suffix != '.parquet':
        return path.read_bytes()
    from pyarrow import parquet
    return parquet.read_table(path).to_pylist()


def expected(tmp_path, name):
    """What a single run writes, which for lines is a table that grew in place."""
    run(tmp_path / 'whole' / name, SCORES)
    return content(tmp_path / 'whole' / name)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('processes', [0, 1, 2, 3])
def test_a_run_killed_at_any_line_goes_on_also_where_several_processes_of_0_1_were(tmp_path, name, processes):
    path = tmp_path / name
    wanted = expected(tmp_path, name)
    for done in range(len(SCORES)):
        path.unlink(missing_ok=True)
        if processes:
            part = next(leave_parts(path, SCORES[:done], processes).glob('00000-*'))
            part.write_bytes(part.read_bytes() + b'{"image": "half a li')
        else:
            run(path, SCORES[:done], merge=False)
        run(path, SCORES, resume=True)
        assert content(path) == wanted and not parts_folder(path).exists(), done


@pytest.mark.parametrize('name', NAMES)
def test_a_kill_between_the_table_and_the_removal_of_its_parts_doubles_nothing(tmp_path, name):
    path = tmp_path / name
    folder = leave_parts(path, SCORES, 2)
    kept = {part: part.read_bytes() for part in folder.iterdir()}
    open_table(str(path), None, 'm', True).finish()
    wanted = content(path)
    folder.mkdir()
    for part, text in kept.items():
        part.write_bytes(text)
    again = run(path, SCORES, resume=True)
    assert content(path) == wanted and again.failed == 1 and not folder.exists()


@pytest.mark.parametrize('name', NAMES)
def test_a_finished_table_is_gone_on_with_when_there_are_more_images(tmp_path, name):
    path = tmp_path / name
    run(path, SCORES[:4])
    assert run(path, SCORES, resume=True).failed == 1
    assert content(path) == expected(tmp_path, name)


@pytest.mark.parametrize('name', ['scores.csv', 'scores.parquet'])
def test_what_is_there_is_neither_overwritten_nor_mixed(tmp_path, name):
    path = tmp_path / name
    leave_parts(path, SCORES, 2)
    with pytest.raises(OptionError, match=r'scores.*\.parts holds the parts of a run that did not finish. Give --resume to '
                                          r'continue'):
        open_table(str(path), None, 'm', False)
    with pytest.raises(OptionError, match='holds scores of m, not of other'):
        open_table(str(path), None, 'other', True)
    run(path, SCORES, resume=True)
    with pytest.raises(OptionError, match='already exists. Give --resume'):
        open_table(str(path), None, 'm', False)
    with pytest.raises(OptionError, match='holds scores of m, not of other'):
        open_table(str(path), None, 'other', True)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / 'scores.parquet'
    path.write_text('no parquet')
    with pytest.raises(DataError, match=r'scores.parquet is not a table of scores: .*Give another name'):
        open_table(str(path), None, 'm', True)
    import pyarrow as pa
    from pyarrow import parquet
    parquet.write_table(pa.table({'a': [1]}), path)
    with pytest.raises(DataError, match=r"its columns are \['a'\], not \['image', 'score', 'error', 'metric'\]"):
        open_table(str(path), None, 'm', True)


def test_parquet_has_null_without_a_score_and_names_in_utf_8(tmp_path):
    run(tmp_path / 'scores.parquet', SCORES)
    assert content(tmp_path / 'scores.parquet')[3] == {'image': '\\xe9.png', 'score': None, 'error': 'truncated', 'metric': 'm'}


@pytest.mark.parametrize(('path', 'chosen', 'found'), [
    ('a.csv', None, 'csv'), ('a.JSONL', None, 'jsonl'), ('a.parquet', None, 'parquet'), ('a.txt', 'csv', 'csv')])
def test_the_format_follows_the_extension_or_the_choice(path, chosen, found):
    assert file_format(path, chosen) == found


def test_a_format_that_cannot_be_told_or_written_is_an_error(monkeypatch):
    with pytest.raises(OptionError, match=r'the extension of a.txt names no format; let it end with .csv, .jsonl, .parquet'):
        file_format('a.txt', None)
    monkeypatch.setattr(tables.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(OptionError, match='Parquet needs pyarrow: pip install pyarrow'):
        file_format('a.parquet', None)


def test_one_process_without_parts_writes_in_place(tmp_path):
    assert isinstance(open_table(str(tmp_path / 'a.csv'), None, 'm', False), ScoreTable)


def outcomes(*values):
    """Scores of images a, b, c, ...; a text is the reason why there is none."""
    return [ImageScore(f'{name}.png', *((None, value) if isinstance(value, str) else (value, '')), (index, 0))
            for index, (name, value) in enumerate(zip('abcdef', values, strict=False))]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('processes', [0, 2])
@pytest.mark.parametrize('killed', [False, True])
def test_images_tried_again_stand_once_and_where_they_stood(tmp_path, name, processes, killed):
    path = tmp_path / name
    first, second = outcomes(1, 'late', 3, 'gone', 'late', 6), outcomes(9, 2, 9, 'still gone', 5, 9)
    if processes:
        leave_parts(path, first, processes)
    run(path, first, resume=processes > 0)
    assert run(path, second, resume=True).failed == 3 and content(path) == content_of(tmp_path, name, first)
    if killed:
        run(path, second[:2], resume=True, merge=False, retry=True)
        again = run(path, [], resume=True, merge=False)
        assert again.failed == 2 and again.has('b.png') and again.has('d.png')
    table = run(path, second, resume=True, retry=True)
    assert table.failed == 0 and not table.has('d.png')
    assert content(path) == content_of(tmp_path, name, outcomes(1, 2, 3, 'still gone', 5, 6))
    assert run(path, [], resume=True).failed == 1


def content_of(tmp_path, name, scores):
    target = tmp_path / str(len(list(tmp_path.iterdir()))) / name
    run(target, scores)
    return content(target)


def test_failures_of_images_that_are_no_longer_asked_for_stay_and_count(tmp_path):
    path = tmp_path / 't.csv'
    run(path, outcomes('late', 'gone', 3))
    table = open_table(str(path), None, 'm', True, True)
    with table.open() as stream:
        table.write(stream, outcomes(1)[:1])
    assert table.finish() == 1 and path.read_text().splitlines()[1:] == ['a.png,1,,m', 'b.png,,gone,m', 'c.png,3,,m']
