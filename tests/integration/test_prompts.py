"""A tiny CLIP learns from texts and MOS how well pictures of coloured shapes agree with prompts, and all that comes of it."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from scipy.stats import spearmanr

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.model.checkpoint import load_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_open_clip_config

pytestmark = pytest.mark.slow

COLOURS = {'red': (220, 40, 40), 'green': (40, 180, 60), 'blue': (50, 70, 220), 'yellow': (230, 210, 50)}
SIDE, PICTURES = 32, 160


def picture(rng, colour, shape, noise):
    """A disc or a square of a colour on grey, with so much noise, from 0 to 1."""
    image = Image.new('RGB', (SIDE, SIDE), (128, 128, 128))
    x, y = rng.integers(-3, 4, 2)
    box = (7 + x, 7 + y, 25 + x, 25 + y)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == 'disc' else draw.rectangle)(box, fill=COLOURS[colour])
    pixels = np.asarray(image) + rng.normal(0, 70 * noise, (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def other_than(rng, colour):
    return str(rng.choice([each for each in COLOURS if each != colour]))


def options_of(folder):
    """Write pictures whose MOS of quality is their noise and of alignment whether their colour is the prompt's."""
    rng, rows, texts = np.random.default_rng(0), [], []
    for number in range(PICTURES):
        colour, shape, noise = str(rng.choice(list(COLOURS))), str(rng.choice(['disc', 'square'])), rng.uniform()
        right = number % 2 == 0
        name, split = f'{number:03d}.png', 'val' if number % 8 in (2, 5) else 'train'
        Image.fromarray(picture(rng, colour, shape, noise)).save(folder / name)
        prompt = f'a {colour if right else other_than(rng, colour)} {shape}'
        rows.append((name, 4.8 - 4.5 * noise, (4.2 if right else 0.8) + rng.normal(0, 0.1), prompt, split))
        word = 'clear' if noise < 1 / 3 else 'grainy' if noise < 2 / 3 else 'very grainy'
        if split == 'train':
            texts.append({'image': name, 'texts': [{'text': text, 'seed': 0, 'model': 'tiny'} for text in (
                f'a {colour} {shape}, the picture is {word}.', f'{word}, it shows a {colour} {shape}.')]})
    with open(folder / 'meta.csv', 'w', newline='', encoding='utf-8') as stream:
        csv.writer(stream).writerows([('name', 'mos_quality', 'mos_align', 'prompt', 'split'), *rows])
    (folder / 'texts.jsonl').write_text('\n'.join(map(json.dumps, texts)))
    table = {'name': 'shapes', 'type': 'GeneralNRDataset', 'dataroot_target': str(folder), 'split_index': 'split',
             'meta_info_file': str(folder / 'meta.csv'), 'mos_range': [0, 5], 'lower_better': False,
             'aspects': {'quality': 'mos_quality', 'alignment': 'mos_align'}, 'prompt_column': 'prompt'}
    trained = {**table, 'reasoning_texts': str(folder / 'texts.jsonl'), 'batch_size_per_gpu': 16}
    return {
        'name': 'shapes', 'manual_seed': 1, 'num_gpu': 0, 'datasets': {'train': trained, 'val': table},
        'network': {'type': 'RALI', 'image_encoder': {'library': 'open_clip', 'name': tiny_open_clip_config(folder / 'clip')}},
        'text_encoder': {'library': 'open_clip', 'train': True},
        'path': {'experiments_root': str(folder / 'experiments')},
        'align': {'total_iter': 60, 'lr': 5e-3, 'warmup_iter': 10},
        'compress': {'pca_dim': 12, 'num_buckets': 6, 'num_basis': 16},
        'score': {'total_epochs': 30, 'batch_size': 60, 'lr': 1e-2},
        'logger': {'use_tb_logger': False, 'figures': False, 'save_checkpoint_freq': 60}}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The option file and the results of a run."""
    folder = tmp_path_factory.mktemp('shapes')
    options = options_of(folder)
    (folder / 'options.yml').write_text(yaml.safe_dump(options))
    return folder, options, train(str(folder / 'options.yml'))


def rows_of(path):
    with open(path, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def test_alignment_is_learned_and_is_not_the_quality(run):
    _, _, results = run
    rows = rows_of(results.folder / 'score' / 'val.csv')
    quality, alignment, mos, mos_align = (np.array([float(row[name]) for row in rows])
                                          for name in ('score', 'alignment', 'mos', 'alignment_mos'))
    by_alignment, by_quality = spearmanr(alignment, mos_align)[0], spearmanr(quality, mos_align)[0]
    assert by_alignment > 0.6 and by_alignment > by_quality + 0.3  # two kinds of pairs: .87 at most
    assert spearmanr(quality, mos)[0] > 0.6
    assert results.best['val/alignment/srcc'] == pytest.approx(by_alignment, abs=1e-6)
    assert json.loads((results.folder / 'results.json').read_text())['best'].keys() == {
        'key', *(f'val/{aspect}{name}' for aspect in ('', 'alignment/') for name in ('srcc', 'plcc', 'krcc'))}


def test_prompts_leave_the_quality_as_it_is_without_them(tmp_path):
    options = options_of(tmp_path)
    options['align']['total_iter'] = options['align']['warmup_iter'] = 3
    with_them = train(options)
    for table in options['datasets'].values():
        del table['aspects'], table['prompt_column']
    without = train({**options, 'name': 'without'})
    tables = [rows_of(found.folder / 'score' / 'val.csv') for found in (with_them, without)]
    assert [row['score'] for row in tables[0]] == [row['score'] for row in tables[1]]  # every digit
    assert 'alignment' in tables[0][0] and 'alignment' not in tables[1][0]
    assert load_checkpoint(without.export)[1]['format_version'] == 1
    assert not (without.folder / 'align' / 'text_tower.safetensors').exists()


def test_a_wrong_prompt_lowers_the_alignment_and_not_the_quality(run):
    _, _, results = run
    net, rng = RALI(pretrained_model_path=str(results.export)), np.random.default_rng(7)
    lower = []
    for _ in range(20):
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(['disc', 'square']))
        pixels = torch.from_numpy(picture(rng, colour, shape, 0.2)).permute(2, 0, 1)[None] / 255
        prompts = [f'a {each} {shape}' for each in (colour, other_than(rng, colour))]
        found = net.score_with_prompts(pixels.expand(2, -1, -1, -1), prompts)
        assert found.quality[0] == pytest.approx(found.quality[1].item(), abs=1e-5)
        lower.append((found.alignment[0] - found.alignment[1]).item())
    assert np.mean(lower) > 1 and np.mean(np.array(lower) > 0) >= 0.9  # of 0 to 5


def test_the_export_scores_as_validation_did(run, tmp_path):
    folder, _, results = run
    assert main(['score', '--opt', str(folder / 'options.yml'), '--dataset', 'val', '--weights', str(results.export),
                 '--prompts', '--out', str(tmp_path / 's.csv')]) == 0
    for scored, validated in zip(rows_of(tmp_path / 's.csv'), rows_of(results.folder / 'score' / 'val.csv'), strict=True):
        assert scored['image'] == validated['image']
        assert float(scored['alignment']) == pytest.approx(float(validated['alignment']), abs=1e-3)
        assert float(scored['score']) == pytest.approx(float(validated['score']), abs=1e-3)


def test_stage_3_alone_and_resuming_give_the_same(run):
    _, options, results = run
    before = load_checkpoint(results.export)[0]
    assert train({**options, 'stages': ['score']}).best == results.best
    (results.folder / 'compress' / 'prompts_val.safetensors').unlink()
    assert train({**options, 'stages': ['compress', 'score']}).best == results.best
    after = load_checkpoint(results.export)[0]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_report_shows_pictures_with_their_prompts(run, tmp_path):
    _, _, results = run
    assert main(['report', str(results.folder), '--out', str(tmp_path / 'r.html')]) == 0
    content = (tmp_path / 'r.html').read_text()
    assert 'val: alignment with prompts' in content and content.count('class="case"') == 2 * 12
    prompts = {row['name']: row['prompt'] for row in rows_of(results.folder.parents[1] / 'meta.csv')}
    _, part = content.split('<h3>val: alignment with prompts</h3>')
    _, *cards = part.split('class="case"')
    assert all(f'\u201c{prompts[card.split("<b>")[1].split("</b>")[0]]}\u201d' in card for card in cards[:12])


def test_a_missing_column_ends_the_run_before_its_first_step(run):
    _, options, _ = run
    wrong = {**options, 'name': 'wrong', 'datasets': {**options['datasets'], 'val': {**options['datasets']['val'],
                                                                                     'prompt_column': 'text'}}}
    with pytest.raises(DataError, match='has no column "text"; it has name, mos_quality, mos_align, prompt, split'):
        train(wrong)
