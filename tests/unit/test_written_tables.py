"""CSV and Markdown tables as other programs read them."""

import csv
import io
import math

from hypothesis import given
from hypothesis import strategies as st

from pyiqa_rali.core.tables import csv_line, markdown_cell, markdown_table, write_csv

CELLS = st.one_of(st.text(st.one_of(st.sampled_from('\n\r",; |'), st.characters(exclude_categories=['Cs']))), st.integers(),
                  st.floats(allow_nan=False))


def read(path):
    with open(path, encoding='utf-8', errors='surrogateescape', newline='') as stream:
        return list(csv.reader(stream))


@given(cells=st.lists(CELLS, min_size=2, max_size=4))
def test_a_row_is_read_back_whatever_its_cells_hold(cells):
    for end in '\n', '\r\n':
        line = csv_line(cells, end)
        assert line.endswith(end) and next(csv.reader(io.StringIO(line, newline=''))) == list(map(str, cells))


def test_cells_without_a_value_are_empty_and_names_are_kept_byte_for_byte(tmp_path):
    write_csv(tmp_path / 'new' / 'a.csv', ['name', 'x'], [['caf\udce9\r.png', math.nan], {'x': 0.1, 'other': 1}, ('b', None)])
    assert (tmp_path / 'new' / 'a.csv').read_bytes() == b'name,x\n"caf\xe9\r.png",\n,0.1\nb,\n'
    assert read(tmp_path / 'new' / 'a.csv')[1] == ['caf\udce9\r.png', '']


def test_a_cell_of_markdown_ends_neither_its_row_nor_itself():
    assert markdown_cell('a|b\nc\r\nd') == 'a\\|b c d'
    assert markdown_table(['name', 'x'], [['a|b', 0.5], ['', None]]) == '\n'.join([
        '| name | x |', '| --- | --- |', '| a\\|b | 0.5 |', '|  | None |'])
    assert markdown_table(['<x>'], [['*']], lambda cell: f'\\{cell}').splitlines()[::2] == ['| \\<x> |', '| \\* |']
