import csv
import json

import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.scoring.score_table import CsvLines, ImageScore, JsonLines, ScoreTable

SCORES = [ImageScore('a.png', 3.25), ImageScore('b, "c".png', error='truncated'), ImageScore('\udce9.png', 1.0)]


def write(path, scores, **options):
    table = ScoreTable(path, 'rali-lite', **options)
    with table.open() as stream:
        table.write(stream, scores)
    return table


def rows(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as stream:
        return list(csv.reader(stream))


def test_every_image_has_a_line_with_a_score_or_an_error(tmp_path):
    write(tmp_path / 'new' / 'scores.csv', SCORES)
    assert rows(tmp_path / 'new' / 'scores.csv') == [
        ['image', 'score', 'error', 'metric'], ['a.png', '3.25', '', 'rali-lite'],
        ['b, "c".png', '', 'truncated', 'rali-lite'], ['\udce9.png', '1', '', 'rali-lite']]


def test_json_lines_are_valid_utf_8_whatever_the_file_names(tmp_path):
    write(tmp_path / 'scores.jsonl', [*SCORES, ImageScore('\u00e9.png', 2.123456789)], lines=JsonLines())
    lines = (tmp_path / 'scores.jsonl').read_text(encoding='utf-8').splitlines()
    assert [json.loads(line) for line in lines] == [
        {'image': 'a.png', 'score': 3.25, 'error': '', 'metric': 'rali-lite'},
        {'image': 'b, "c".png', 'score': None, 'error': 'truncated', 'metric': 'rali-lite'},
        {'image': '\udce9.png', 'score': 1.0, 'error': '', 'metric': 'rali-lite'},
        {'image': '\u00e9.png', 'score': 2.12346, 'error': '', 'metric': 'rali-lite'}]
    assert '\u00e9' in lines[3] and '\\udce9' in lines[2]


@pytest.mark.parametrize('lines', [CsvLines(), JsonLines(), JsonLines(positions=True)])
def test_a_resumed_table_knows_what_it_holds(tmp_path, lines):
    write(tmp_path / 'scores.csv', SCORES, lines=lines)
    table = ScoreTable(tmp_path / 'scores.csv', 'rali-lite', resume=True, lines=lines)
    assert (table.finished, table.failed) == ({score.image for score in SCORES}, 1)


@pytest.mark.parametrize('lines', [CsvLines(), JsonLines()])
def test_a_table_cut_off_anywhere_goes_on_and_ends_the_same(tmp_path, lines):
    path = tmp_path / 'scores.csv'
    scores = [SCORES[0], ImageScore('b\n"c", d\r\n.png', 2.5), *SCORES[1:], ImageScore('\n', error='one line\nand another')]
    write(path, scores, lines=lines)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        table = ScoreTable(path, 'rali-lite', resume=True, lines=lines)
        with table.open() as stream:
            table.write(stream, [score for score in scores if score.image not in table.finished])
        assert path.read_bytes() == whole, end


def test_a_table_is_never_overwritten(tmp_path):
    write(tmp_path / 'scores.csv', SCORES)
    with pytest.raises(OptionError, match='scores.csv already exists. Give --resume to continue it, or another name'):
        ScoreTable(tmp_path / 'scores.csv', 'rali-lite')


def test_a_table_of_another_metric_is_refused(tmp_path):
    write(tmp_path / 'scores.csv', SCORES)
    with pytest.raises(OptionError, match='holds scores of rali-lite, not of rali:mine. Give another name'):
        ScoreTable(tmp_path / 'scores.csv', 'rali:mine', resume=True)


@pytest.mark.parametrize(('content', 'message'), [
    ('name,mos\na.png,3\n', "is not a table of scores: its first line is 'name,mos', not 'image,score,error,metric'"),
    ('one line of something else', "its first line is 'one line of something else', not 'image,"),
    ('image\na.png\n', "its first line is 'image', not 'image,"),
    ('image,score,error,metric\na.png,3\nb.png,2,,rali-lite\n', r"line 2 of .* is damaged: \['a.png', '3'\]. Fix or"),
])
def test_a_file_that_is_no_table_of_scores_is_refused(tmp_path, content, message):
    (tmp_path / 'scores.csv').write_text(content)
    with pytest.raises(DataError, match=message):
        ScoreTable(tmp_path / 'scores.csv', 'rali-lite', resume=True)
    assert (tmp_path / 'scores.csv').read_text() == content


@pytest.mark.parametrize(('content', 'message'), [
    ('image,score,error,metric\n', "its first line is 'image,score,error,metric', not '{\"image\": ' and so on"),
    ('{"image": "a.png", "score": 1, "error": ""}\n', 'line 1 of .* is damaged: {"image": "a.png"'),
    ('{"image": "a.png", "score"\n', 'line 1 of .* is damaged'),
])
def test_a_file_that_is_no_table_of_json_lines_is_refused(tmp_path, content, message):
    (tmp_path / 'scores.jsonl').write_text(content)
    with pytest.raises(DataError, match=message):
        ScoreTable(tmp_path / 'scores.jsonl', 'rali-lite', resume=True, lines=JsonLines())
    assert (tmp_path / 'scores.jsonl').read_text() == content
