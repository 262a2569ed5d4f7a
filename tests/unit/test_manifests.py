import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.manifests import read_manifest
from pyiqa_rali.data.tables import build_table

AGIQA_HEAD = 'name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n'
OPTIONS = Path(__file__).parents[2] / 'options'


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def deqa(tmp_path):
    """DeQA-Score's layout: images under the root by the manifest's own paths."""
    entries = [{'id': f'{number}.jpg->{mos}', 'image': f'KONIQ/images/{number}.png', 'gt_score': mos, 'gt_score_norm': mos / 2,
                'std': 0.5} for number, mos in enumerate((1.5, 3.25, 4))]
    for number, entry in enumerate(entries):
        picture(tmp_path / entry['image'], number)
    path = tmp_path / 'KONIQ' / 'metas' / 'test_koniq_2k.json'
    path.parent.mkdir()
    path.write_text(json.dumps(entries))
    return {'name': 'KonIQ', 'format': 'deqa', 'dataroot_target': str(tmp_path), 'meta_info_file': str(path),
            'mos_range': [1, 5], 'lower_better': False}


@pytest.fixture
def agiqa(tmp_path):
    rows = ['AttnGAN_normal_000.jpg,"a house, in fog",,,,1.5,0.2,0.7,0.1', 'sd_001.jpg,statue,sharp,,baroque,3.25,0.2,1.1,0.1',
            'xl_002.jpg,cat,,,,4,0.2,2.5,0.1']
    for number, row in enumerate(rows):
        picture(tmp_path / 'images' / row.split(',')[0], number)
    (tmp_path / 'data.csv').write_text(AGIQA_HEAD + '\n'.join(rows))
    return {'name': 'AGIQA-3K', 'format': 'agiqa3k', 'dataroot_target': str(tmp_path / 'images'),
            'meta_info_file': str(tmp_path / 'data.csv'), 'mos_range': [0, 5], 'lower_better': False}


@pytest.fixture
def pipal(tmp_path):
    labels = {'A0001_00_00.bmp': ('Distortion_1', 1500.5), 'A0001_00_01.bmp': ('Distortion_1', 1325.25),
              'A0100_06_12.bmp': ('Distortion_2', 1004.0)}
    for number, (name, (folder, _)) in enumerate(labels.items()):
        picture(tmp_path / folder / name, number)
    (tmp_path / 'Train_Label').mkdir()
    for stem in ('A0001', 'A0100'):
        (tmp_path / 'Train_Label' / f'{stem}.txt').write_text(
            ''.join(f'{name},{mos}\n' for name, (_, mos) in labels.items() if name.startswith(stem)))
    return {'name': 'PIPAL', 'format': 'pipal', 'dataroot_target': str(tmp_path), 'meta_info_file': str(tmp_path),
            'mos_range': [0, 2500], 'lower_better': False}


EXPECTED = {'deqa': [1.5, 3.25, 4], 'agiqa': [1.5, 3.25, 4], 'pipal': [1500.5, 1325.25, 1004]}


@pytest.mark.parametrize('layout', EXPECTED)
def test_pyiqa_builds_and_loads_it(layout, request):
    from pyiqa.data import build_dataloader, build_dataset
    options = {**request.getfixturevalue(layout), 'type': 'ManifestNRDataset', 'phase': 'test'}
    dataset = build_dataset(options)
    items = [(batch['mos_label'].item(), round(batch['img'].max().item() * 255), batch['img_path'][0])
             for batch in build_dataloader(dataset, {**options, 'num_worker_per_gpu': 0})]
    assert [mos for mos, _, _ in items] == EXPECTED[layout] and [value for _, value, _ in items] == [0, 1, 2]
    assert all(Path(path).is_file() for _, _, path in items)


@pytest.mark.parametrize('layout', EXPECTED)
def test_our_option_files_build_it(layout, request):
    values = {**request.getfixturevalue(layout), 'type': 'ManifestNRDataset', 'augment': {'hflip': True}}
    table = build_table('train', values, 0)
    low, high = values['mos_range']
    assert [mos for _, mos in table.images_and_mos()] == EXPECTED[layout]
    assert [float(item['mos_label']) for item in table.__getitems__([0, (1, 5)])] == pytest.approx(
        [(mos - low) / (high - low) for mos in EXPECTED[layout][:2]])
    assert len(table.table_names()) == 3 and all(isinstance(name, str) for name in table.table_names())


def test_another_mos_column_is_taken_when_asked_for(deqa, agiqa):
    for values, column, expected in ((deqa, 'gt_score_norm', [0.75, 1.625, 2]), (agiqa, 'mos_align', [0.7, 1.1, 2.5])):
        table = build_table('val', {**values, 'type': 'ManifestNRDataset', 'mos_column': column, 'mos_range': [0, 5]}, 0)
        assert [mos for _, mos in table.images_and_mos()] == expected


def test_split_columns_are_pyiqas(agiqa):
    path = Path(agiqa['meta_info_file'])
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0] + ',my_split', *(line + f',{phase}' for line, phase in
                                                         zip(lines[1:], ('train', 'test', 'train'), strict=True))]))
    values = {**agiqa, 'type': 'ManifestNRDataset', 'split_index': 'my_split'}
    assert [len(build_table(phase, values, 0)) for phase in ('train', 'test')] == [2, 1]


def test_pipal_may_lie_flat_or_in_one_file(pipal, tmp_path):
    flat = tmp_path / 'flat'
    for path in tmp_path.glob('Distortion_*/*.bmp'):
        picture(flat / path.name)
    labels = tmp_path / 'all.txt'
    labels.write_text('A0001_00_00.bmp,1500.5\n\nA0100_06_12.bmp,1004\n')
    table = build_table('val', {**pipal, 'type': 'ManifestNRDataset', 'dataroot_target': str(flat),
                                'meta_info_file': str(labels)}, 0)
    assert table.image_names() == [str(flat / 'A0001_00_00.bmp'), str(flat / 'A0100_06_12.bmp')]


def test_a_picture_of_pipal_in_two_places_is_refused(pipal, tmp_path):
    picture(tmp_path / 'copy' / 'A0001_00_00.bmp')
    with pytest.raises(DataError, match=r'A0001_00_00.bmp: lies at .* and at .*Keep one'):
        build_table('val', {**pipal, 'type': 'ManifestNRDataset'}, 0)


@pytest.mark.parametrize(('change', 'error', 'message'), [
    ({'mos_range': None}, OptionError, r'mos_range: must be given. The MOS of .*2k.json range from 1.5 to 4\.$'),
    ({'lower_better': None}, OptionError, 'lower_better'),
    ({'format': None}, OptionError, 'format: must be given'), ({'format': 'deqq'}, OptionError, 'Did you mean "deqa"'),
    ({'mos_range': [1, 2]}, DataError, r'2 of 3 MOS are outside mos_range \[1, 2\] \(found 1.5 to 4\)'),
    ({'mos_column': 'gt_scor'}, DataError, r'entry 1: has no "gt_scor"; it has .*Did you mean "gt_score"'),
    ({'meta_info_file': 'nowhere.json'}, DataError, 'nowhere.json: does not exist'),
    ({'dataroot_target': 'nowhere'}, DataError, 'nowhere: is not a folder')])
def test_options_that_cannot_be_used(change, error, message, deqa):
    from pyiqa.data import build_dataset
    with pytest.raises(error, match=message):
        build_dataset({**deqa, 'type': 'ManifestNRDataset', 'phase': 'test', **change})


@pytest.mark.parametrize(('kind', 'text', 'message'), [
    ('deqa', '[{"image": "a.png", "gt_score": 1}, {"gt_score": 2}]', r'manifest, entry 2: has no "image"; it has gt_score'),
    ('deqa', '[{"image": "a.png", "gt_score": null}]', 'entry 1: has no "gt_score".*mos_column'),
    ('deqa', '[{"image": "a.png", "gt_score": "good"}]', 'entry 1: "gt_score" is \'good\'; it must be a finite number'),
    ('deqa', '[{"image": "a.png", "gt_score": NaN}]', 'entry 1: "gt_score" is \'nan\''),
    ('deqa', '[{"image": "a.png", "gt_score": true}]', 'entry 1: "gt_score" is \'True\''),
    ('deqa', '[{"image": ["a.png", "b.png"], "gt_score": 2}]', 'entry 1: "image" is .* path of one image'),
    ('deqa', '{"a.png": 2}\n', 'is a dict.*mos.json'), ('deqa', '{\n  "a.png": 2\n}\n', 'is a dict.*mos.json'),
    ('deqa', '{"image": "a.png", "gt_score": 2}\n{"image": "b.png", "gt_score": }\n', 'line 2: cannot be read as JSON'),
    ('deqa', '[["a.png", 2]]', r"entry 1: .*'a.png', 2.* must be"), ('deqa', '{"a.png": {"mos": 2}}', 'is a dict.*mos.json'),
    ('deqa', '[{', 'cannot be read as JSON'), ('deqa', '[]', 'holds no images'),
    ('deqa', '[{"image": "a.png", "gt_score": 1}, {"image": "a.png", "gt_score": 2}]',
     'manifest, entry 2: a.png has the MOS 2, and 1 at .*manifest, entry 1. Keep one'),
    ('agiqa3k', 'name,mos_align\na.png,2\n', 'manifest, line 2: has no "mos_quality"; it has name, mos_align'),
    ('agiqa3k', 'name,mos_quality\na.png,2\nb.png,\n', 'manifest, line 3: has no "mos_quality"'),
    ('agiqa3k', 'name,mos_quality\na.png,2\nb.png,x2\n', 'manifest, line 3: "mos_quality" is \'x2\''),
    ('agiqa3k', 'name,mos_quality\n', r'manifest: has headings \(name, mos_quality\) and no row below'),
    ('pipal', 'A0001_00_00.bmp,1500\nA0001_00_01.bmp\n', 'manifest, line 2: .* must be an image and its MOS'),
    ('pipal', 'A0001_00_00.bmp,high\n', 'manifest, line 1: "MOS" is \'high\'')])
def test_bad_rows_are_named(kind, text, message, tmp_path):
    (tmp_path / 'manifest').write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / 'manifest', kind)


@pytest.mark.parametrize('name', ['test.json', 'test.jsonl'])
def test_a_list_and_lines_are_told_apart_by_what_they_hold(deqa, tmp_path, name):
    listed = Path(deqa['meta_info_file']).read_text()
    lines = ''.join(f'{json.dumps(entry)}\n' for entry in json.loads(listed))
    for text in (listed, lines, json.dumps(json.loads(listed), indent=1), f'\ufeff{lines}'):
        (tmp_path / name).write_text(text, encoding='utf-8')
        rows = read_manifest(tmp_path / name, 'deqa')
        assert [(row.image, row.mos) for row in rows] == [(f'KONIQ/images/{number}.png', mos)
                                                          for number, mos in enumerate(EXPECTED['deqa'])]


def test_pipal_has_no_columns(tmp_path):
    (tmp_path / 'labels.txt').write_text('A0001_00_00.bmp,1500\n')
    with pytest.raises(OptionError, match='PIPAL has one MOS per image'):
        read_manifest(tmp_path / 'labels.txt', 'pipal', 'mos')
    (tmp_path / 'labels.txt').unlink()
    with pytest.raises(DataError, match='holds no .txt files'):
        read_manifest(tmp_path, 'pipal')


def test_its_keys_belong_to_it_alone(deqa):
    with pytest.raises(OptionError, match='unknown key "format"'):
        build_table('val', {**deqa, 'type': 'GeneralNRDataset'}, 0)


def test_the_ready_file_is_pyiqas(deqa):
    import yaml
    from pyiqa.data import build_dataset
    from pyiqa.utils.options import ordered_yaml
    with open(OPTIONS / 'data_papers.yml') as stream:
        sections = yaml.load(stream, Loader=ordered_yaml()[0])
    assert {section['format'] for section in sections.values()} == {'deqa', 'agiqa3k', 'pipal'}
    section = {**sections['koniq_deqa'], 'phase': 'test',
               **{key: deqa[key] for key in ('dataroot_target', 'meta_info_file')}}
    assert len(build_dataset(section)) == 3
