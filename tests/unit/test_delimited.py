"""Tables from spreadsheets, Windows and other tools are read as they are meant, or refused with file and line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.delimited import numbers, read_delimited, read_text

ROWS = [['1.png', '1,5'], ['2.png', '2,5'], ['3.png', '3']]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(('content', 'separator'), [
    (b'img,mos\n1.png,"1,5"\n2.png,"2,5"\n3.png,3\n', ','), (b'img;mos\n1.png;1,5\n2.png;2,5\n3.png;3\n', ';'),
    (b'img\tmos\n1.png\t1,5\n2.png\t2,5\n3.png\t3\n', '\t'), (b'\xef\xbb\xbfimg,mos\n1.png,1.5\n2.png,2.5\n3.png,3', ','),
    ('img;mos\n1.png;1,5\n2.png;2,5\n3.png;3\n'.encode('utf-16'), ';'),
    (b'\xfe\xff' + 'img,mos\n1.png,1.5\n2.png,2.5\n3.png,3\n'.encode('utf-16-be'), ','),
    ('img,mos\n1.png,1.5\n2.png,2.5\n3.png,3\n'.encode('utf-32'), ','),
    (b'sep=;\r\nimg;mos\r\n1.png;1,5\r\n2.png;2,5\r\n3.png;3\r\n', ';'),
    (b'"sep=;"\nimg;mos\n1.png;1.5\n2.png;2.5\n3.png;3', ';'),
    (b'img,mos\r1.png,1.5\r2.png,2.5\r3.png,3\r', ','), (b' img , mos \n1.png, 1.5\n2.png,2.5 \n3.png,+3e0\n', ','),
    (b'img,mos,,\n1.png,1.5,,\n\n2.png,2.5,,\n3.png,3\n,,,\n', ','), (b'img,mos\n1.png,1.5\n2.png,2.5\n3.png,3.\n,\n', ',')],
    ids=['quoted commas', 'semicolons', 'tabs', 'BOM', 'UTF-16', 'UTF-16 BE', 'UTF-32', 'sep=', 'quoted sep=', 'old Mac',
         'spaces', 'empty columns and lines', 'empty rows'])
def test_one_table_in_many_hands(tmp_path, content, separator):
    table = read_delimited(write(tmp_path / 'm.csv', content))
    assert table.columns == ['img', 'mos'] and table.cells(0) == ['1.png', '2.png', '3.png']
    assert table.numbers(1) == [1.5, 2.5, 3.0] and table.separator == separator


def test_a_mark_in_quotation_marks_is_no_separator(tmp_path):
    table = read_delimited(write(tmp_path / 'm.csv', 'name,prompt,mos\na.png,"fog; rain, or ""snow""",2\n'))
    assert table.rows == [['a.png', 'fog; rain, or "snow"', '2']]
    assert read_delimited(write(tmp_path / 'm.csv', 'a;b,c,d\nx,1,2\ny,3,4\n')).columns == ['a;b', 'c', 'd']


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    table = read_delimited(write(tmp_path / 'm.csv', 'name,prompt,mos\n\na.png,"two\nlines",2\nb.png,x,3\n'))
    assert table.lines == [3, 5] and table.where(1).endswith('m.csv, line 5')
    assert read_delimited(write(tmp_path / 'm.csv', 'sep=,\nname,mos\na.png,2\n')).lines == [3]


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'm.csv: is empty'), (b' \n\n', 'is empty'), (b'\xef\xbb\xbf', 'is empty'), (b'sep=;\n', 'is empty'),
    (b'img,mos\n', r'has headings \(img, mos\) and no row'), (b'img,mos\n\n,\n', 'no row below them'),
    (b'img mos\n1.png 3\n', "line 1: 'img mos' holds no 2 headings between commas, semicolons or tabs"),
    (b'a,b;c\nx,y;z\n', 'can be split at commas and at semicolons'),
    (b'img,mos\n1.png,1\n2.png,2,3\n', 'line 3: has 3 cells for 2 headings .* must be in quotation marks'),
    (b'img,mos\n1.png,"1\n2.png,2\n', r'line 2: cannot be read .*Quotation marks open and close'),
    (b'img,mos\n1.png,1\nb\xe4r.png,2\n', r'line 3: is not UTF-8 text \(byte 0xe4\). Save it as "CSV UTF-8"'),
    ('img,mos\n1.png,1\n'.encode('utf-16-le'), 'line 1: holds zero bytes: .* UTF-16 without a byte-order mark'),
    (b'{"image": "a.png", "gt_score": 1}\n{"image": "b.png", "gt_score": 2}\n',
     'm.csv: holds JSON and no table. .* type: ManifestNRDataset and format: deqa'),
    (b'[{"image": "a.png", "gt_score": 1}]', 'holds JSON and no table'), (b'\xef\xbb\xbf[\n {"image": 1}]', 'holds JSON'),
    (b'PK\x03\x04\x14\x00', 'is a spreadsheet file')])
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_delimited(write(tmp_path / 'm.csv', content))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r'gone.csv: cannot be read \(No such file'):
        read_text(tmp_path / 'gone.csv')


@pytest.mark.parametrize(('cells', 'message'), [
    (['1', 'good'], "m, line 1: \"mos\" is 'good'; it must be a finite number"), (['1', ''], "line 1: \"mos\" is ''"),
    (['nan', '1'], 'line 0: "mos" is \'nan\''), (['inf'], 'inf'), (['1_000'], '1_000'), (['0x10'], '0x10'), (['3/5'], '3/5'),
    (['1e999'], '1e999'), (['\u0661'], 'finite number'), (['1.234,5'], 'finite number'), (['50 %'], '50 %'),
    (['1,5', '2.5'], "line 0: .* '1,5', and '2.5' at m, line 1: a decimal comma and a decimal point in one column"),
    (['1,520', '934'], "line 0: .*'1,520': its comma may be decimal or part thousands")])
def test_cells_that_are_no_numbers(cells, message):
    with pytest.raises(DataError, match=message):
        numbers(cells, [f'm, line {number}' for number in range(len(cells))], 'mos')


@pytest.mark.parametrize(('cells', 'expected'), [
    (['1,520', '1,5'], [1.52, 1.5]), (['0,520', '0,125'], [0.52, 0.125]), (['1520,060'], [1520.06]), ([',5'], [0.5]),
    (['-1,5', '2'], [-1.5, 2]), (['1,5e2'], [150])])
def test_commas_that_can_only_be_decimal(cells, expected):
    assert numbers(cells, ['m'] * len(cells), 'mos') == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_finite_number_comes_back(values):
    assert numbers([repr(value) for value in values], ['m'] * len(values), 'mos') == values


names = st.text(st.characters(codec='utf-8', exclude_characters='\0\r\n', exclude_categories=['Cs']), min_size=1, max_size=12)


@given(st.lists(st.tuples(names, st.floats(-1e6, 1e6)), min_size=1, max_size=6), st.sampled_from(',;\t'),
       st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16']))
def test_what_a_program_writes_is_what_is_read(tmp_path_factory, rows, separator, encoding):
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows([['image', 'mos'], *rows])
    path = write(tmp_path_factory.mktemp('m') / 'm.csv', stream.getvalue().encode(encoding))
    table = read_delimited(path)
    assert table.cells(0) == [name for name, _ in rows] and table.numbers(1) == [value for _, value in rows]
