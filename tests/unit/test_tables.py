"""pyiqa's tables: no-reference and full-reference ones give each image with its own MOS."""

import csv
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import rows_of


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('ref.png', 'a.png', 'b.png', 'c.png'):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    pd.DataFrame([['ref.png', 'a.png', 1.5], ['ref.png', 'b.png', 4.5], ['ref.png', 'c.png', 3]]).to_csv(
        tmp_path / 'fr.csv', index=False)
    pd.DataFrame([['a.png', 1.5, 0.2], ['b.png', 4.5, 0.1], ['c.png', 3, 0.3]]).to_csv(tmp_path / 'nr.csv', index=False)
    return tmp_path


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_images_and_mos(folder, kind):
    table = build_table('train', {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder),
                                  'meta_info_file': str(folder / f'{kind.lower()}.csv'), 'mos_range': [1, 5],
                                  'lower_better': False}, 0)
    assert table.images_and_mos() == [(str(folder / f'{name}.png'), mos) for name, mos in (('a', 1.5), ('b', 4.5), ('c', 3))]
    assert table.image_names() == [str(folder / f'{name}.png') for name in 'abc'] and table.table_names() == [
        'a.png', 'b.png', 'c.png']
    items = table.__getitems__([0, (1, 3)])
    assert [float(item['mos_label']) for item in items] == [0.125, 0.875] and items[0]['img'].shape == (3, 24, 24)


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_mos_outside_the_range_are_found(folder, kind):
    with pytest.raises(DataError, match=r'2 of 3 MOS are outside mos_range \[1, 2\] \(found 1.5 to 4.5\)'):
        build_table('train', {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder),
                              'meta_info_file': str(folder / f'{kind.lower()}.csv'), 'mos_range': [1, 2],
                              'lower_better': False}, 0)


def test_a_truncated_image_is_named(folder):
    content = (folder / 'b.png').read_bytes()
    (folder / 'b.png').write_bytes(content[:len(content) // 2])
    table = build_table('train', {'name': 'tiny', 'type': 'GeneralFRDataset', 'dataroot_target': str(folder),
                                  'meta_info_file': str(folder / 'fr.csv'), 'mos_range': [1, 5], 'lower_better': False}, 0)
    with pytest.raises(DataError, match=r'tiny: .*b.png: cannot be read as an image \(.*\). Fix or remove it'):
        table[1]


def test_rows_without_paths_start_from_the_data_sets_root():
    base = SimpleNamespace(dataroot='ava', paths_mos=[['1.jpg', 4.5, 0, 1], ['2.jpg', 6, 1, 0]])
    assert QualityTable(base, MosScale([1, 10], False), 'AVA', 0).images_and_mos() == [('ava/1.jpg', 4.5), ('ava/2.jpg', 6.0)]


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_a_further_column(folder, kind):
    path = folder / f'{kind.lower()}.csv'
    table = pd.read_csv(path)
    table['fault'] = ['blur', None, 'noise']
    table['a_split'] = ['train', 'train', 'val']
    table.to_csv(path, index=False)
    values = {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder), 'meta_info_file': str(path),
              'mos_range': [1, 5], 'lower_better': False, 'split_index': 'a_split'}
    assert build_table('train', values, 0).column('fault') == ['blur', '']
    with pytest.raises(DataError, match=r'has no column "falt"; it has .*fault'):
        build_table('train', values, 0).column('falt')
    rows = rows_of('train', {**values, 'class_column': 'fault'}, ReasoningCard(), 0)
    assert [row.distortion_class for row in rows] == ['blur', '']
    assert [row.distortion_class for row in rows_of('train', values, ReasoningCard(), 0)] == ['', '']


def spreadsheet(folder, content, names=('1.png', '2.png', '3.png'), kind='NR', **changes):
    """Build a table of pictures with these names from a file with this content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((24, 24, 3), dtype=np.uint8)).save(folder / name, 'PNG')
    (folder / 'm.csv').write_bytes(content if isinstance(content, bytes) else content.encode())
    return build_table('train', {'name': 'm', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder),
                                 'meta_info_file': str(folder / 'm.csv'), 'mos_range': [1, 5], 'lower_better': False,
                                 **changes}, 0)


@pytest.mark.parametrize('content', [
    'img,mos\n1.png,"1,5"\n2.png,"2,5"\n3.png,3\n', 'img;mos\n1.png;1,5\n2.png;2,5\n3.png;3\n',
    'img\tmos\n1.png\t1.5\n2.png\t2.5\n3.png\t3\n', 'img,mos\r\n1.png,1.5\r\n2.png,2.5\r\n3.png,3\r\n'.encode('utf-16')])
def test_tables_of_spreadsheets(tmp_path, content):
    table = spreadsheet(tmp_path, content)
    assert table.images_and_mos() == [(str(tmp_path / f'{number}.png'), mos) for number, mos in ((1, 1.5), (2, 2.5), (3, 3))]
    assert table[0]['img'].shape == (3, 24, 24)


def test_names_stay_text(tmp_path):
    table = spreadsheet(tmp_path, 'img,mos,note\n1,1,NA\n002,2,\nNA,3,7\n', ('1', '002', 'NA'))
    assert [path for path, _ in table.images_and_mos()] == [str(tmp_path / name) for name in ('1', '002', 'NA')]
    assert [item['img'].shape for item in table.__getitems__([0, 1, 2])] == [(3, 24, 24)] * 3


def test_folders_as_windows_writes_them(tmp_path):
    table = spreadsheet(tmp_path, 'img,mos\none\\1.png,1\n two/2.png,2\n3\\4.png,3\n', ('one/1.png', 'two/2.png', '3\\4.png'))
    assert table.image_names() == [str(tmp_path / name) for name in ('one/1.png', 'two/2.png', '3\\4.png')]
    assert table.table_names() == ['one/1.png', 'two/2.png', '3\\4.png']


@pytest.mark.parametrize(('content', 'message'), [
    ('img,mos\n1.png,good\n2.png,bad\n', "datasets: train: .*m.csv, line 2: \"mos\" is 'good'; it must be a finite number"),
    ('img,mos\n1.png,1\n2.png,2\n1.png,5\n', 'm.csv, line 4: 1.png has the MOS 5, and 1 at .*m.csv, line 2. Keep one of'),
    ('img,mos\n1.png,1\n./1.png,5\n', 'line 3: ./1.png has the MOS 5'),
    ('', 'm.csv: is empty'), ('img,mos\n', 'no row below'), ('img,mos\n1.png,1\n,2\n', 'line 3: has no image'),
    ('1.png,1\n2.png,2\n3.png,3\n', 'line 1: "1.png" is an image, and a line of headings is expected. .* image,mos'),
    (',img,mos\n0,1.png,1\n1,2.png,2\n', r'first column has no heading and counts the rows.*index=False'),
    ('img,mos\n1.png,1\n2.png,\n', 'line 3: "mos" is \'\'')])
def test_tables_that_cannot_be_used_are_told_with_file_and_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        spreadsheet(tmp_path, content)


def test_an_image_twice_with_one_mos_is_told_and_counts_twice(tmp_path, caplog):
    table = spreadsheet(tmp_path, 'img,mos\n1.png,1\n2.png,2\n1.png,1\n')
    assert len(table) == 3 and '1 rows name an image that an earlier row names, with the same MOS: 1.png' in caplog.text


def test_an_image_in_two_splits_is_refused(tmp_path):
    content = 'img,mos,a_split,b_split\n1.png,1,train,train\n2.png,2,train,test\n1.png,1,test,unused\n'
    with pytest.raises(DataError, match=r'line 4: 1.png is in the split "test", and in "train" at .*line 2.*must not be'):
        spreadsheet(tmp_path, content, split_index='a_split')
    assert len(spreadsheet(tmp_path, content, split_index='b_split')) == 1


def test_the_references_of_a_full_reference_table_may_repeat(tmp_path):
    table = spreadsheet(tmp_path, 'ref;img;mos\n1.png;2.png;1,5\n1.png;3.png;2,5\n', kind='FR')
    assert [mos for _, mos in table.images_and_mos()] == [1.5, 2.5] and table[1]['ref_img_path'] == str(tmp_path / '1.png')
    with pytest.raises(DataError, match='line 1: "2.png" is an image.* reference,image,mos'):
        spreadsheet(tmp_path, '1.png,2.png,1\n1.png,3.png,2\n', kind='FR')


def test_an_empty_split_tells_what_the_column_has(tmp_path):
    with pytest.raises(DataError, match='holds no images in phase "train"; the column a_split has Test, Train'):
        spreadsheet(tmp_path, 'img,mos,a_split\n1.png,1,Train\n2.png,2,Test\n', split_index='a_split')


def test_missing_options_of_a_table(tmp_path):
    with pytest.raises(OptionError, match='datasets: train: mos_range: must be given; .*m.csv range from 1 to 2. Example'):
        spreadsheet(tmp_path, 'img,mos\n1.png,1\n2.png,2\n', mos_range=None)
    with pytest.raises(OptionError, match='datasets: train: dataroot_target: must be given'):
        spreadsheet(tmp_path, 'img,mos\n1.png,1\n2.png,2\n', dataroot_target=None)


@pytest.mark.parametrize(('high', 'warns'), [(2500, True), (200, True), (190, False)])
def test_a_range_that_labels_hardly_fill_is_told(high, warns, caplog):
    MosScale([0, high], False).check_labels(list(range(1, 101)), 'set')
    assert ('is it' in caplog.text or f'mos_range [0, {high}]' in caplog.text) == warns


def test_data_sets_of_pyiqa_that_read_tables_their_own_way_fail_with_the_file(tmp_path):
    (tmp_path / 'm.csv').write_text('')
    with pytest.raises(DataError, match='datasets: train: pyiqa cannot build it from .*m.csv: No columns to parse'):
        build_table('train', {'name': 'm', 'type': 'BAPPSDataset', 'dataroot_target': str(tmp_path), 'mos_range': [0, 1],
                              'meta_info_file': str(tmp_path / 'm.csv'), 'lower_better': False}, 0)


def test_tables_can_be_handed_to_other_processes(tmp_path):
    import pickle
    table = pickle.loads(pickle.dumps(spreadsheet(tmp_path, 'img,mos\n1.png,1\n2.png,2\n')))
    assert table.images_and_mos()[1][1] == 2


def test_every_way_into_training_reads_by_one_rule(tmp_path):
    """A turned 16-bit picture is the same array for RALI's tables and for a reasoning model, upright or as it is stored."""
    from pyiqa_rali.data.image_files import ReadingOptions, read_rgb
    from pyiqa_rali.vlm.tables import training_set
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    for name in ('a.png', 'b.png'):
        Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / name, exif=exif)
    pd.DataFrame({'name': ['a.png', 'b.png'], 'mos': [1.5, 4]}).to_csv(tmp_path / 't.csv', index=False)
    values = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': str(tmp_path),
              'meta_info_file': str(tmp_path / 't.csv'), 'mos_range': [1, 5], 'lower_better': False}
    for upright, shape in ((True, (40, 24)), (False, (24, 40))):
        expected = read_rgb(tmp_path / 'a.png', ReadingOptions(upright))
        assert expected.shape == (*shape, 3)
        chosen = values if upright else {**values, 'upright': False}
        item = build_table('train', chosen, 0)[0]['img']
        assert np.array_equal((item * 255).round().byte().permute(1, 2, 0).numpy(), expected)
        rows = rows_of('train', chosen, ReasoningCard(), 0)
        assert np.array_equal(np.asarray(rows[0].picture()), expected)
        assert np.array_equal(np.asarray(training_set(rows, ReasoningCard())[0]['image']), expected)
    with pytest.raises(DataError, match='a.png: cannot be read as an image .its 960 pixels are more than the limit'):
        rows_of('train', {**values, 'pixel_limit': 959}, ReasoningCard(), 0)[0].picture()


names = st.sampled_from(['a.png', 'b.png', 'sub/a.png', '1', 'NA', 'é.png', 'x y.png', 'sub/c.png'])
cells = st.sampled_from(['blur', 'noise', '', 'a, "b"', '3', 'NA '])
table_rows = st.lists(st.tuples(names, cells, st.sampled_from(['train', 'val', 'test', 'unused'])), min_size=2, max_size=8,
                      unique_by=lambda row: row[0])


@settings(deadline=None)
@given(rows=table_rows, separator=st.sampled_from(',;\t'), phase=st.sampled_from(['train', 'val', 'test']))
def test_each_image_keeps_its_own_mos_and_cells_whatever_the_table_and_the_split(tmp_path_factory, rows, separator, phase):
    folder = tmp_path_factory.mktemp('m')
    with open(folder / 'm.csv', 'w', encoding='utf-8', newline='') as stream:
        csv.writer(stream, delimiter=separator).writerows(
            [['img', 'mos', 'fault', 'a_split'], *([name, 1 + number / 8, fault, split]
                                                  for number, (name, fault, split) in enumerate(rows))])
    expected = [(str(folder / name), 1 + number / 8, fault.strip()) for number, (name, fault, split) in enumerate(rows)
                if split == phase]
    values = {'name': 'm', 'type': 'GeneralNRDataset', 'dataroot_target': str(folder), 'meta_info_file': str(folder / 'm.csv'),
              'mos_range': [1, 5], 'lower_better': False, 'split_index': 'a_split'}
    if not expected:
        with pytest.raises(DataError, match='holds no images in phase'):
            build_table(phase, values, 0)
        return
    table = build_table(phase, values, 0)
    found = zip(table.images_and_mos(), table.column('fault'), strict=True)
    assert [(path, mos, fault) for (path, mos), fault in found] == expected


def test_an_image_of_which_a_column_says_two_things_is_refused(tmp_path):
    table = spreadsheet(tmp_path, 'img,mos,fault\n1.png,1,blur\n2.png,2,\n1.png,1,noise\n')
    with pytest.raises(DataError, match=r'1 images have two values in the column "fault": .*1.png. Keep one'):
        table.column('fault')
