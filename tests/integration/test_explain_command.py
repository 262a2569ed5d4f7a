"""Explanations from the command line, with the embedded weights and with tiny models."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_options

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    photograph = next(item for item in bundled_photographs() if item.photograph_id == 'coffee')
    whole = np.ascontiguousarray(read_rgb(photograph.path)[:256, :320])
    for kind in ('jpeg', 'white_noise'):
        Image.fromarray(distort(whole, kind, 4, np.random.default_rng(0))).save(folder / f'{kind}.png')
    return folder


def test_it_prints_what_is_wrong_in_80_columns(pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures)
    assert main(['explain', 'jpeg.png', 'white_noise.png']) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    first, second = printed.split('\n\n')[:2]
    voted = [each.split('by their share of the vote')[1].split() for each in (first, second)]
    assert voted[0][0] == 'jpeg' and voted[1][:2] == ['white', 'noise']
    assert 'JPEG blocking' in first and 'colour noise' in second
    assert first.splitlines()[1].startswith('  score ') and 'higher is better' in first


def test_json_and_figures(pictures, tmp_path, capsys):
    arguments = ['--json', '--out', str(tmp_path), '--num-texts', '2']
    assert main(['explain', str(pictures), str(pictures / 'jpeg.png'), *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line['votes'][0]['distortion'] for line in lines] == ['jpeg', 'white_noise', 'jpeg']
    assert abs(lines[0]['votes'][0]['level'] - 4) < 1.5 and len(lines[0]['texts']) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['jpeg_explained.png', 'jpeg_explained_2.png',
                                                                 'white_noise_explained.png']
    figure = Image.open(tmp_path / 'jpeg_explained.png')
    assert min(figure.size) > 600 and len(figure.convert('RGB').getcolors(1 << 24)) > 1000


def test_a_map_is_told_and_drawn(pictures, tmp_path, capsys):
    picture = str(pictures / 'jpeg.png')
    assert main(['explain', picture, '--map', '--out', str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    start = printed.index('  where, the mean score of each part of the picture')
    parts = np.array([[float(value) for value in line.split()] for line in printed[start + 1:start + 4]])
    assert parts.shape == (3, 3) and ((parts >= 1) & (parts <= 5)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['jpeg_explained.png']
    assert main(['explain', picture, '--map', '--json']) == 0
    found = json.loads(capsys.readouterr().out)['quality_map']
    assert np.array(found['values']).shape == (16, 20) and found['region'] == [0, 0, 256, 320]
    assert np.allclose([[np.mean(part) for part in np.array_split(row, 3, axis=1)] for row in
                        np.array_split(np.array(found['values']), 3)], parts, atol=0.1)


def test_an_unreadable_image_is_counted_and_the_others_are_explained(pictures, tmp_path, capsys):
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    Image.new('RGB', (8, 8)).save(tmp_path / 'small.png')
    assert main(['explain', str(tmp_path), str(pictures / 'jpeg.png'), '--json']) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 'cannot identify' in lines[0]['error'] and 'at least 16' in lines[1]['error'] and lines[2]['score'] > 0


def test_a_folder_without_images_ends_as_it_does_in_score(tmp_path, capsys):
    for command in ('explain', 'score'):
        assert main([command, str(tmp_path), '--device', 'cpu']) == 1
        told = capsys.readouterr()
        assert f'NO IMAGE in {tmp_path}' in told.err and not told.out


@pytest.mark.parametrize(('arguments', 'message'), [
    (['-m', 'niqe'], 'only rali and rali-lite explain their scores'), (['-m', 'rali-lit'], 'Did you mean "rali-lite"'),
    (['--num-texts', '0'], 'num_texts: 0 must be at least 1')])
def test_wrong_arguments_are_refused(pictures, capsys, arguments, message):
    assert main(['explain', str(pictures / 'jpeg.png'), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A finished run with a bank, its option file, and the export without its bank."""
    folder = tmp_path_factory.mktemp('run')
    options = tiny_options(folder, bank={'num_texts': 2, 'temperature': 0.5})
    (folder / 'options.yml').write_text(yaml.safe_dump(options))
    export = train(str(folder / 'options.yml')).export
    tensors, metadata = load_checkpoint(export)
    plain = {name: value for name, value in metadata.items() if name != 'bank'}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith('bank.')}
    save_checkpoint(folder / 'plain.safetensors', tensors, {**plain, 'format_version': 1})
    return folder, export


def test_a_run_with_a_bank_explains(run):
    net = RALI(pretrained_model_path=run[1])
    assert len(net.bank.texts) == 2 and net.bank.temperature == 0.5 and net.bank.distortions == [None, None]
    found = net.explain(torch.rand(1, 3, 40, 48))[0]
    assert found.votes == [] and found.texts[0].text in net.bank.texts


def test_add_bank_gives_a_checkpoint_the_bank_that_training_would(run, tmp_path, capsys):
    folder, export = run
    with_file, with_options = tmp_path / 'texts.safetensors', tmp_path / 'options.pth'
    plain = str(folder / 'plain.safetensors')
    common = ['--num-texts', '2', '--seed', '7', '--temperature', '0.5']
    assert main(['add-bank', plain, '--texts', str(folder / 'data' / 'texts.jsonl'), '--out', str(with_file), *common]) == 0
    assert 'a bank of 2 texts, chosen from' in capsys.readouterr().out
    assert main(['add-bank', plain, '-opt', str(folder / 'options.yml'), '--out', str(with_options), '--seed', '7']) == 0
    trained, trained_metadata = load_checkpoint(export)
    for path in (with_file, with_options):
        tensors, metadata = load_checkpoint(path)
        assert tensors.keys() == trained.keys() and all(torch.equal(tensors[name], trained[name]) for name in trained)
        assert metadata['bank']['texts'] == trained_metadata['bank']['texts'] and metadata['format_version'] == 2


def test_a_checkpoint_without_a_bank_says_how_to_add_one(run, pictures, capsys):
    plain = str(run[0] / 'plain.safetensors')
    assert main(['explain', str(pictures / 'jpeg.png'), '--weights', plain]) == 2
    assert 'plain.safetensors: the checkpoint has no text bank' in capsys.readouterr().err
    assert main(['info', plain]) == 0
    assert 'bank: none' in capsys.readouterr().out


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--texts', 'nowhere.jsonl'], 'nowhere.jsonl is not a file'),
    (['-opt', 'nowhere.yml'], 'nowhere.yml is not a file'),
    (['--texts', 'TEXTS', '--num-texts', '0'], 'num_texts: 0 must be at least 1'),
    (['--texts', 'TEXTS', '--selection', 'kmean'], 'Did you mean "kmeans"'),
    (['--texts', 'TEXTS', '--temperature', '0'], 'temperature: 0.0 must be above 0'),
    (['--texts', 'TEXTS', '--text-encoder', './nowhere'], 'is not a folder'),
    (['--texts', 'TEXTS', '--force_yml', 'a=b'], '--force_yml: is only for use with -opt'),
    (['-opt', 'OPTIONS', '--split-sentences'], 'are only for --texts'),
    (['-opt', 'TRAINED'], 'train: true: the trained text encoder is not kept'),
])
def test_add_bank_refuses_what_it_cannot_use(run, tmp_path, capsys, arguments, message):
    names = {'TEXTS': str(run[0] / 'data' / 'texts.jsonl'), 'OPTIONS': str(run[0] / 'options.yml'),
             'TRAINED': str(tmp_path / 'trained.yml')}
    values = yaml.safe_load((run[0] / 'options.yml').read_text())
    (tmp_path / 'trained.yml').write_text(yaml.safe_dump({**values, 'text_encoder': {**values['text_encoder'], 'train': True}}))
    arguments = [names.get(argument, argument) for argument in arguments]
    assert main(['add-bank', str(run[0] / 'plain.safetensors'), '--out', str(tmp_path / 'new.safetensors'), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'new.safetensors').exists()


def test_explanations_are_measured_and_a_second_start_goes_on(tmp_path, capsys):
    arguments = ['evaluate-explanations', '--out', str(tmp_path), '--ratios', '0', '0', '1', '--size', '64', '64',
                 '--num-photographs', '1', '--levels', '3']
    assert main(arguments) == 0
    first = (tmp_path / 'results.json').read_bytes()
    found, rows = json.loads(first), (tmp_path / 'pictures.jsonl').read_text().splitlines()
    assert found['all_types']['pictures'] == found['pictures'] == len(rows) == 38
    assert 'class right' in capsys.readouterr().out and (tmp_path / 'explanations.png').stat().st_size > 10000
    (tmp_path / 'pictures.jsonl').write_text('\n'.join(rows[:20]) + '\n' + rows[20][:30])
    assert main(arguments) == 0
    assert (tmp_path / 'results.json').read_bytes() == first
    assert main([*arguments, '--levels', '4']) == 2
    assert 'was begun with another levels: ' in capsys.readouterr().err
    assert main([*arguments[:3], str(tmp_path), '--size', '64', '64']) == 2
    assert '--size: is about pictures that are drawn, but these come from FOLDER.' in capsys.readouterr().err


def test_pictures_beside_the_figures_stay_and_names_are_no_formulas(pictures, tmp_path):
    own = tmp_path / 'a$_$b.png'
    own.write_bytes((pictures / 'jpeg.png').read_bytes())
    assert main(['explain', str(own), '--out', str(tmp_path)]) == 0
    assert own.read_bytes() == (pictures / 'jpeg.png').read_bytes()
    assert (tmp_path / 'a$_$b_explained.png').is_file()


def test_lists_and_shards_are_explained_and_what_holds_no_image_is_named(pictures, tmp_path, capsys):
    import tarfile
    with tarfile.open(tmp_path / 's.tar', 'w') as tar:
        tar.add(pictures / 'jpeg.png', 'in/jpeg.png')
    (tmp_path / 'none').mkdir()
    (tmp_path / 'list.txt').write_text(f'{pictures / "white_noise.png"}\r\n{tmp_path / "gone.png"}\r\n')
    sources = [str(tmp_path / 's.tar'), f'@{tmp_path / "list.txt"}', str(tmp_path / 'none')]
    assert main(['explain', *sources, '--json', '--out', str(tmp_path / 'figures')]) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line['image'] for line in lines] == [f'{tmp_path / "s.tar"}::in/jpeg.png', str(pictures / 'white_noise.png'),
                                                 str(tmp_path / 'gone.png')]
    assert lines[0]['votes'][0]['distortion'] == 'jpeg' and lines[2]['error'] == 'No such file or directory'
    assert f'NO IMAGE in {tmp_path / "none"}' in printed.err
    assert sorted(path.name for path in (tmp_path / 'figures').iterdir()) == ['jpeg_explained.png', 'white_noise_explained.png']


def test_an_explanation_and_its_score_are_of_one_picture(pictures, tmp_path, capsys):
    """A turned, transparent and 16-bit file each: what explain says is what score says."""
    gray = np.asarray(Image.open(pictures / 'jpeg.png').convert('L'))
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(gray).save(tmp_path / 'turned.png', exif=exif)
    alpha = np.where(np.arange(gray.shape[1]) < 160, 0, 255).astype(np.uint8) * np.ones((len(gray), 1), np.uint8)
    Image.fromarray(np.dstack([gray, alpha])).save(tmp_path / 'transparent.png')
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / 'deep.png')
    assert main(['explain', str(tmp_path), '--json', '--device', 'cpu']) == 0
    explained = {line['image']: line['score'] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert main(['score', str(tmp_path), '--device', 'cpu']) == 0
    scored = dict(line.split('\t') for line in capsys.readouterr().out.splitlines())
    assert explained == {image: pytest.approx(float(score), abs=1e-3) for image, score in scored.items()}
    assert len(set(scored.values())) == 3


def test_many_pictures_tell_speed_and_time_left(pictures, capfd, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.scoring.progress.SECONDS_BETWEEN_LINES', 0.0)
    assert main(['explain', str(pictures), '--json', '--log-format', 'json']) == 0
    out, err = capfd.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 2
    progress = [each['progress'] for each in map(json.loads, err.splitlines()) if 'progress' in each]
    assert [each['done'] for each in progress] == [1, 2]
    assert all(each['what'] == 'explain' and each['per_second'] > 0 for each in progress)
