import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import read_rgb, read_size
from pyiqa_rali.data.photographs import bundled_photographs, check_sizes, list_photographs, split_photographs
from tests.unit.test_distortions import photograph


@pytest.fixture
def folder(tmp_path):
    for index in range(8):
        Image.fromarray(photograph(40, 50, index)).save(tmp_path / f'p{index // 2}_{index % 2}.png')
    return tmp_path


def test_files_are_photographs_unless_a_table_says_more(folder):
    assert len({item.photograph_id for item in list_photographs(folder)}) == 8
    rows = ''.join(f'p{index // 2}_{index % 2}.png,{index // 2}\n' for index in range(8))
    (folder / 'photos.csv').write_text(f'image,photo\n{rows}')
    assert len({item.photograph_id for item in list_photographs(folder)}) == 4


def test_several_folders_are_one_list(folder, tmp_path):
    others = [tmp_path / 'a' / 'photos', tmp_path / 'b' / 'photos']
    for other in others:
        other.mkdir(parents=True)
        Image.fromarray(photograph(40, 50)).save(other / 'p.png')
    found = [item.photograph_id for item in list_photographs([others[0], folder])]
    assert found == ['photos/p', *(f'{folder.name}/p{index // 2}_{index % 2}' for index in range(8))]
    assert [item.photograph_id for item in list_photographs(others)] == ['a/photos/p', 'b/photos/p']
    assert [item.photograph_id for item in list_photographs(others[:1])] == ['p']
    with pytest.raises(OptionError, match=r'photographs: .* has a folder twice'):
        list_photographs([folder, folder])
    with pytest.raises(OptionError, match=r'groups: .* cannot say which of 2 folders'):
        list_photographs(others, folder / 'photos.csv')


def test_a_split_is_by_photograph_and_repeats(folder):
    (folder / 'photos.csv').write_text('image,photo\n' + ''.join(f'p{i // 2}_{i % 2}.png,{i // 2}\n' for i in range(8)))
    photographs = list_photographs(folder)
    splits = [split_photographs(photographs, seed, (0.5, 0.25, 0.25)) for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1] and any(split != splits[0] for split in splits[2:])
    for split in splits:
        ids = [{item.photograph_id for item in split[phase]} for phase in ('train', 'val', 'test')]
        assert [len(found) for found in ids] == [2, 1, 1] and not ids[0] & ids[1] and not (ids[0] | ids[1]) & ids[2]
        assert sum(map(len, split.values())) == 8


@pytest.mark.parametrize('change, error, message', [
    (lambda folder: (folder / 'photos.csv').write_text('image,photo\np0_0.png,0\n'), DataError, '7 pictures of .* not in it'),
    (lambda folder: (folder / 'photos.csv').write_text('file,photo\na,b\n'), DataError, 'needs the columns image and photo'),
    (lambda folder: [path.unlink() for path in folder.iterdir()], DataError, 'holds no pictures'),
])
def test_tables_and_folders_that_cannot_be_used(folder, change, error, message):
    change(folder)
    with pytest.raises(error, match=message):
        list_photographs(folder)


def test_a_missing_folder_and_ratios(folder):
    with pytest.raises(OptionError, match=r'photographs: .*gone is not a folder'):
        list_photographs(folder / 'gone')
    with pytest.raises(OptionError, match=r'groups: .*gone.csv is not a file'):
        list_photographs(folder, folder / 'gone.csv')
    photographs = list_photographs(folder)
    for ratios in ((1, 2), (-1, 1, 1), (0, 0, 0)):
        with pytest.raises(OptionError, match='split_ratios'):
            split_photographs(photographs, 0, ratios)
    with pytest.raises(DataError, match='leave none for val'):
        split_photographs(photographs, 0, (0.9, 0.01, 0.09))


def test_sizes_are_checked_before_anything_starts(folder):
    photographs = list_photographs(folder)
    check_sizes(photographs, (40, 50))
    with pytest.raises(DataError, match=r'8 of 8 photographs are smaller than the crop of 50 x 41'):
        check_sizes(photographs, (41, 50))
    (folder / 'p0_0.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'1 of 8 photographs cannot be opened.*p0_0.png'):
        check_sizes(photographs, (40, 50))


def test_installed_photographs():
    photographs = bundled_photographs()
    assert len(photographs) >= 15
    check_sizes(photographs, (192, 256))


@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P', 'CMYK', 'LA', 'RGBA', 'YCbCr', 'I;16'])
def test_every_kind_of_picture_is_rgb(tmp_path, mode):
    values = photograph(20, 30)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == 'I;16' else Image.fromarray(values).convert(mode)
    path = tmp_path / ('a.jpg' if mode in ('CMYK', 'YCbCr') else 'a.png')
    image.save(path)
    found = read_rgb(path)
    assert found.shape == (20, 30, 3) and found.dtype == np.uint8 and read_size(path) == (20, 30)
    if mode in ('L', 'I;16'):
        expected = values[..., 0] if mode == 'I;16' else np.asarray(Image.fromarray(values).convert('L'))
        assert np.array_equal(found[..., 0], expected) and np.array_equal(found[..., 0], found[..., 2])


def test_transparent_pixels_are_white(tmp_path):
    image = Image.new('RGBA', (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 20))
    image.save(tmp_path / 'a.png')
    found = read_rgb(tmp_path / 'a.png')
    assert found[0, 0].tolist() == [0, 0, 255] and found[0, 19].tolist() == [255, 255, 255]


@pytest.mark.parametrize('content', [b'', b'text', None])
def test_files_that_are_no_picture(tmp_path, content):
    path = tmp_path / 'broken.png'
    if content is not None:
        path.write_bytes(content)
    for read in (read_rgb, read_size):
        with pytest.raises(DataError, match=r'broken.png: cannot be read as an image'):
            read(path)


def test_a_truncated_picture(tmp_path):
    path = tmp_path / 'half.png'
    Image.fromarray(photograph(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r'half.png: cannot be read as an image'):
        read_rgb(path)
