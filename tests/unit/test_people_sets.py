"""Tables and texts for public images that people scored, from folders as the repositories have them."""

import csv
import json
import shutil

import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.people_sets import prepare, verdicts_of
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
from pyiqa_rali.data.synthetic.quality_texts import IMPRESSIONS
from pyiqa_rali.data.tables import build_table


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')


def clones(folder):
    """Write the tables of the repositories and empty files for their images."""
    biq = folder / 'BIQ2021'
    for part, numbers in (('Train', range(20)), ('Test', range(20, 26))):
        for number in numbers:
            touch(biq / 'Images' / f'SS01 ({number}).jpg')
        lines = [f'ss01 ({number}).jpg,{number / 26:.4f},,' for number in numbers]
        (biq / f'{part} (Images and MOS).csv').write_text('\n'.join(['\ufeffImage Name,MOS,,', *lines, ',,,', '']))
    rows = []
    for number in range(10):
        touch(folder / 'MMP-2K-Subjective-Study-Platform' / 'backend' / 'server' / 'image_base' / f'{number}.jpg')
        said = [{'magnitude': 'strong', 'factor': 'underexposure', 'position': 'entire image'}] if number else []
        rows.append([f'images/{number}.jpg', 50, 10 * number, json.dumps(said) if said else '', f'The image {number} is fair.'])
    (folder / 'MMP-2k').mkdir()
    with open(folder / 'MMP-2k' / 'MMP-2k.csv', 'w', newline='') as stream:
        csv.writer(stream).writerows([['file_name', '1', 'MOS', 'distortion annotation', 'quality report'], *rows])
    for name in ('I01_11_1.BMP', 'i02_01_1.bmp'):
        touch(folder / 'MTurkImageQuality' / 'static' / 'images' / name)
    (folder / 'Image-Quality').mkdir()
    (folder / 'Image-Quality' / 'mos_with_names.txt').write_text('5.5 i01_11_1.bmp\n4.25 I02_01_1.bmp\n3.0 i25_01_1.bmp\n')
    return folder


@pytest.fixture
def repositories(tmp_path):
    return clones(tmp_path / 'repositories')


def rows_of(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


def test_images_that_are_smaller_than_a_crop_are_left_out_of_a_split_for_large_crops(repositories, tmp_path):
    for number, size in enumerate(((384, 384), (383, 500), (512, 383), (512, 512))):
        Image.new('RGB', size).save(repositories / 'BIQ2021' / 'Images' / f'SS01 ({number}).jpg')
    prepare(repositories, tmp_path)
    found = {row['name']: row for row in rows_of(tmp_path / 'biq2021' / 'meta.csv')}
    for number, large in enumerate((True, False, False, True)):
        row = found[f'SS01 ({number}).jpg']
        assert row['split_384'] == (row['official_split'] if large else '-')


def test_each_set_gets_its_table_with_parts_and_small_parts(repositories, tmp_path, capsys):
    out = tmp_path / 'datasets'
    assert main(['prepare-people', '--repositories', str(repositories), '--out', str(out)]) == 0
    assert f'{out / "biq2021" / "meta.csv"}: 18 train, 2 val, 6 test' in capsys.readouterr().out
    biq, mmp, tid = (rows_of(out / name / 'meta.csv') for name in ('biq2021', 'mmp2k', 'tid2013'))
    tested = [row['name'] for row in biq if row['official_split'] == 'test']
    assert tested == [f'SS01 ({number}).jpg' for number in range(20, 26)]
    assert {part: sum(row['official_split'] == part for row in mmp) for part in ('train', 'val', 'test')} == {
        'train': 8, 'val': 1, 'test': 1}
    assert [(row['name'], row['mos'], row['official_split']) for row in tid] == [
        ('I01_11_1.BMP', '5.5', 'test'), ('i02_01_1.bmp', '4.25', 'test')]
    for rows in (biq, mmp):
        assert all(row['small_split'] in ('-', row['official_split']) for row in rows)
    assert [sum(row['small_split'] == part for row in biq) for part in ('train', 'val', 'test')] == [3, 0, 2]
    for name, rows in (('biq2021', biq), ('mmp2k', mmp), ('tid2013', tid)):
        assert all((out / name / 'images' / row['name']).is_file() for row in rows)
    section = {'name': 'BIQ2021', 'type': 'GeneralNRDataset', 'dataroot_target': str(out / 'biq2021' / 'images'),
               'meta_info_file': str(out / 'biq2021' / 'meta.csv'), 'mos_range': [0, 1], 'lower_better': False}
    counts = {column: [len(build_table(part, {**section, 'split_index': column}, 0)) for part in ('train', 'test')]
              for column in ('official_split', 'small_split')}
    assert counts == {'official_split': [18, 6], 'small_split': [3, 2]}
    assert all(row['split_384'] == row['official_split'] for row in biq)  # what has no header is told when it is read
    again = {path: path.read_bytes() for path in out.rglob('*.*') if path.is_file()}
    prepare(repositories, out)
    assert {path: path.read_bytes() for path in out.rglob('*.*') if path.is_file()} == again


def test_texts_are_verdicts_of_training_images_and_what_raters_wrote(repositories, tmp_path):
    prepare(repositories, tmp_path)
    table = {row['name']: row for row in rows_of(tmp_path / 'biq2021' / 'meta.csv')}
    verdicts = load_reasoning_texts(tmp_path / 'biq2021' / 'texts_verdict.jsonl')
    assert set(verdicts) == {name for name, row in table.items() if row['official_split'] == 'train'}
    for name, texts in verdicts.items():
        assert [each.text for each in texts] == list(IMPRESSIONS[int(float(table[name]['mos']) * 10)])
    people = load_reasoning_texts(tmp_path / 'mmp2k' / 'texts.jsonl')
    assert people['3.jpg'][0].text == 'The image 3 is fair.' and people['3.jpg'][0].distortions == [('underexposure', 4.0)]
    assert people['0.jpg'][0].distortions == []
    mmp = load_reasoning_texts(tmp_path / 'mmp2k' / 'texts_verdict.jsonl')
    assert [text.text for text in mmp['5.jpg' if '5.jpg' in mmp else '6.jpg']] == verdicts_of(0.5 if '5.jpg' in mmp else 0.6)
    assert not (tmp_path / 'tid2013' / 'texts_verdict.jsonl').exists()


def test_verdicts_cover_the_whole_range():
    assert verdicts_of(0) == list(IMPRESSIONS[0]) and verdicts_of(1) == list(IMPRESSIONS[-1])


def test_what_is_missing_is_told(repositories, tmp_path):
    with pytest.raises(OptionError, match='--repositories: .*nothing has none of BIQ2021.*github.com/nisarahmedrana/BIQ2021'):
        prepare(tmp_path / 'nothing', tmp_path)
    (repositories / 'BIQ2021' / 'Images' / 'SS01 (3).jpg').unlink()
    with pytest.raises(DataError, match=r'BIQ2021: has a MOS for ss01 \(3\).jpg, and no such image. Is the clone whole'):
        prepare(repositories, tmp_path)
    shutil.rmtree(repositories / 'BIQ2021')
    shutil.rmtree(repositories / 'MMP-2k')
    with pytest.raises(OptionError, match='MMP-2k is not a folder, and mmp2k needs it beside .*github.com/Future-IQA/MMP-2k'):
        prepare(repositories, tmp_path)


def test_pictures_of_one_prompt_are_in_one_part(tmp_path):
    clone, prompts = tmp_path / 'clones' / 'AGIQA-3k-Database', [f'a "{number}", large' for number in range(20)]
    clone.mkdir(parents=True)
    rows = [(f'{model}_{number:03d}.jpg', prompt, '', '', '', 0.1 * number, 0.2, 4 - 0.1 * number, 0.3)
            for model in ('GAN', 'SD') for number, prompt in enumerate(prompts)]
    columns = ('name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align')
    with open(clone / 'data.csv', 'w', newline='', encoding='utf-8') as stream:
        csv.writer(stream).writerows([columns, *rows])
    with pytest.raises(DataError, match='images: is not a folder.*its README says where the archive of the images is'):
        prepare(tmp_path / 'clones', tmp_path)
    (clone / 'images').mkdir()
    for name, *_ in rows:
        (clone / 'images' / name).write_bytes(b'jpeg')
    prepare(tmp_path / 'clones', tmp_path)
    table = rows_of(tmp_path / 'agiqa3k' / 'meta.csv')
    assert list(table[0]) == ['name', 'mos', 'official_split', 'small_split', 'split_384', 'mos_align', 'prompt']
    assert [(row['name'], float(row['mos']), float(row['mos_align']), row['prompt']) for row in table] == [
        (name, pytest.approx(quality), pytest.approx(alignment), prompt)
        for name, prompt, _, _, _, quality, _, alignment, _ in rows]
    parts = {prompt: {row['official_split'] for row in table if row['prompt'] == prompt} for prompt in prompts}
    assert all(len(part) == 1 for part in parts.values())
    assert sorted(part for each in parts.values() for part in each) == ['test'] * 2 + ['train'] * 16 + ['val'] * 2


def replace_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


TRAIN = 'BIQ2021/Train (Images and MOS).csv'


@pytest.mark.parametrize(('table', 'old', 'new', 'told'), [
    (TRAIN, '0.3846', '-0.3846', r'BIQ2021: 1 of 26 MOS are outside \[0, 1\], the range of this set: SS01 \(10\).jpg \(-0.38'),
    (TRAIN, '0.', '4.', r'19 of 26 MOS are outside|20 of 26 MOS are outside'),
    (TRAIN, '0.3846', 'nan', r'1 of 26 MOS are outside .* \(nan\)'),
    (TRAIN, '0.3846', 'n/a', r'Train .*: is not the table of BIQ2021 that was expected \(ValueError.*another version'),
    (TRAIN, ',', ';', r'is not the table of BIQ2021 that was expected \(IndexError'),
    (TRAIN, 'ss01 (4).jpg', 'ss01 (24).jpg', r'BIQ2021: 1 images appear twice: SS01 \(24\).jpg'),
    ('MMP-2k/MMP-2k.csv', 'strong', 'huge', r"MMP-2k.csv: is not the table of MMP-2k .*KeyError: 'huge'"),
    ('Image-Quality/mos_with_names.txt', '5.5 ', '5.5 a b ', r'mos_with_names.txt: is not the table of TID2013 .*ValueError'),
])
def test_a_table_of_another_version_is_rejected_with_its_name(repositories, tmp_path, table, old, new, told):
    replace_in(repositories / table, old, new)
    with pytest.raises(DataError, match=told):
        prepare(repositories, tmp_path / 'datasets')


@pytest.mark.parametrize('table', [TRAIN, 'MMP-2k/MMP-2k.csv', 'Image-Quality/mos_with_names.txt'])
def test_a_clone_without_its_table_is_told(repositories, tmp_path, table):
    (repositories / table).unlink()
    with pytest.raises(DataError, match=r'does not exist. Is the clone whole\?'):
        prepare(repositories, tmp_path / 'datasets')


def test_a_clone_without_images_or_rows_is_told(repositories, tmp_path):
    (repositories / TRAIN).write_text('Image Name,MOS\n')
    with pytest.raises(DataError, match='Train .*: has no images. Is the clone whole'):
        prepare(repositories, tmp_path / 'datasets')
    shutil.rmtree(repositories / 'BIQ2021')
    for path in (repositories / 'MTurkImageQuality/static/images').iterdir():
        path.unlink()
    with pytest.raises(DataError, match='Image-Quality: none of the images that it has a MOS for is there'):
        prepare(repositories, tmp_path / 'datasets')


def test_an_image_on_which_people_wrote_nothing_has_no_empty_text(repositories, tmp_path):
    replace_in(repositories / 'MMP-2k/MMP-2k.csv', 'The image 3 is fair.', ' ')
    prepare(repositories, tmp_path / 'datasets')
    texts = load_reasoning_texts(tmp_path / 'datasets/mmp2k/texts.jsonl')  # rejects empty texts
    assert sorted(texts) == [f'{number}.jpg' for number in range(10) if number != 3]


def test_images_that_were_there_before_are_checked_and_told(repositories, tmp_path, capsys):
    out = tmp_path / 'datasets'
    (out / 'biq2021' / 'images').mkdir(parents=True)
    with pytest.raises(DataError, match='images: is there already, and lacks 26 of the 26 images of the table: SS01'):
        prepare(repositories, out)
    for path in (repositories / 'BIQ2021/Images').iterdir():
        shutil.copy(path, out / 'biq2021' / 'images')
    assert main(['prepare-people', '--repositories', str(repositories), '--out', str(out)]) == 0
    told = capsys.readouterr().out
    assert f'images: those of {out / "biq2021" / "images"}, which were there before' in told
    assert told.count('were there before') == 1
