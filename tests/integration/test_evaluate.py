import csv
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.evaluation import run as evaluation
from pyiqa_rali.evaluation.options import evaluate_options
from tests.tiny import tiny_table, tiny_vlm

pytestmark = pytest.mark.slow

FILES = {'options.yml', 'versions.json', 'results.csv', 'results.json', 'results.md', 'pyiqa_row.csv', 'significance.csv',
         'paper.csv', 'counts.csv', 'missing.csv', 'overlap.csv', 'scores', 'figures'}


def options(folder, metrics=None, **statistics):
    """Return options for a tiny data set, made once in `folder`, with fast metrics."""
    if not (folder / 'data').exists():
        tiny_table(folder / 'data')
    table = {'type': 'GeneralNRDataset', 'dataroot_target': str(folder / 'data'),
             'meta_info_file': str(folder / 'data' / 'meta_info.csv'), 'mos_range': [1, 5], 'lower_better': False}
    return {'name': 'tiny', 'manual_seed': 3, 'num_gpu': 0, 'datasets': {'koniq10k': table},
            'metrics': metrics or {'piqe': {}, 'entropy': {'paper_name': 'RALI'}},
            'statistics': {'bootstrap': 120, **statistics},
            'path': {'experiments_root': str(folder / 'experiments'), 'score_cache': str(folder / 'cache')}}


def run(values):
    return evaluation.evaluate(evaluate_options(values)).folder


def rows(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def calls(monkeypatch):
    """The batches that metrics are asked for."""
    from pyiqa.models.inference_model import InferenceModel

    from pyiqa_rali.model.rali import RALI
    seen, forward, score_prepared = [], InferenceModel.forward, RALI.score_prepared

    def counting(self, *images):
        seen.append((self.metric_name, len(images[0])))
        return forward(self, *images)

    def counting_prepared(self, prepared):
        seen.append(('rali', len(prepared)))
        return score_prepared(self, prepared)

    monkeypatch.setattr(InferenceModel, 'forward', counting)
    monkeypatch.setattr(RALI, 'score_prepared', counting_prepared)
    return seen


def test_all_tables_agree_with_pyiqa_itself(tmp_path, calls):
    import pyiqa
    from pyiqa.metrics import calculate_krcc, calculate_plcc, calculate_srcc
    root = run(options(tmp_path))
    assert {path.name for path in root.iterdir()} == FILES and len(calls) == 48
    scores = rows(root / 'scores' / 'koniq10k.csv')
    metric = pyiqa.create_metric('piqe', device='cpu')
    ours = [float(row['piqe']) for row in scores]
    assert ours == pytest.approx([metric(row['image']).item() for row in scores], rel=1e-5)
    mos = [float(row['mos']) for row in scores]
    found = {row['metric']: row for row in rows(root / 'results.csv')}
    turned = [-score for score in ours]  # piqe is lower better
    cells = [function(turned, mos) for function in (calculate_plcc, calculate_srcc, calculate_krcc)]
    assert [float(found['piqe'][name]) for name in ('plcc', 'srcc', 'krcc')] == pytest.approx(cells, abs=1e-5)
    lines = (root / 'pyiqa_row.csv').read_text().splitlines()
    assert lines[0] == 'Metric name,koniq10k(PLCC/SRCC/KRCC)' and lines[1].startswith('piqe,')
    assert lines[1] == 'piqe,' + '/'.join(f'{cell:.4f}' for cell in cells)
    assert found['piqe']['images'] == found['piqe']['scored'] == '24' and found['piqe']['missing'] == '0'
    assert float(found['piqe']['srcc_low']) <= float(found['piqe']['srcc']) <= float(found['piqe']['srcc_high'])
    assert [row['metric_a'] + row['metric_b'] for row in rows(root / 'significance.csv')] == ['piqeentropy']
    assert [(row['metric'], row['measure'], row['paper']) for row in rows(root / 'paper.csv')] == [
        ('entropy', 'plcc', '0.939000'), ('entropy', 'srcc', '0.922000')]
    written = json.loads((root / 'results.json').read_text())
    assert written['metrics']['piqe']['lower_better'] and written['datasets']['koniq10k']['images'] == 24
    for name in written['figures']:
        assert Image.open(root / name).size[0] > 300
    assert len(written['figures']) == 4 and '## Who is better' in (root / 'results.md').read_text()


def test_nothing_is_computed_twice_and_all_comes_out_the_same(tmp_path, calls):
    root = run(options(tmp_path))
    before = {name: (root / name).read_bytes() for name in ('results.csv', 'significance.csv', 'scores/koniq10k.csv')}
    calls.clear()
    values = options(tmp_path)
    values['num_gpu'] = 'auto'
    run(values)
    assert calls == [] and all((root / name).read_bytes() == content for name, content in before.items())


def test_what_changed_is_computed_again(tmp_path, calls):
    run(options(tmp_path))
    calls.clear()
    Image.fromarray(np.full((40, 48, 3), 90, dtype=np.uint8)).save(tmp_path / 'data' / '003.png')
    run(options(tmp_path))
    assert calls == [('piqe', 1), ('entropy', 1)]
    calls.clear()
    values = options(tmp_path)
    values['datasets']['koniq10k']['augment'] = {'resize': 48}
    run(values)
    assert len(calls) == 48


def test_other_weights_are_another_metric(tmp_path, calls):
    metrics = {'lite': {'name': 'rali-lite'}}
    run(options(tmp_path, metrics))
    calls.clear()
    run(options(tmp_path, metrics))
    assert calls == []
    from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint
    from pyiqa_rali.model.locate import locate_checkpoint
    tensors, metadata = load_checkpoint(locate_checkpoint('rali-lite'))
    path = tmp_path / 'mine.safetensors'
    for factor in (1.0, 1.5):  # the same path, other weights
        save_checkpoint(path, {**tensors, 'scorer.basis_scores': tensors['scorer.basis_scores'] * factor}, metadata)
        run(options(tmp_path, {'mine': {'name': 'rali', 'pretrained_model_path': str(path)}}))
    assert [name for name, _ in calls] == ['rali'] * 48


def test_a_reasoning_model_with_another_prompt_is_another_metric(tmp_path, calls):
    model = str(tiny_vlm(tmp_path / 'vlm'))
    values = options(tmp_path, {'mine': {'name': 'rali-reasoning', 'pretrained_model_path': model, 'max_new_tokens': 4}})
    values['datasets']['koniq10k']['split_index'] = 'split_photo'
    values['datasets']['koniq10k'].update(phase='val', batch_size_per_gpu=8)
    run(values)
    calls.clear()
    run(values)
    assert calls == []
    card = tmp_path / 'vlm' / 'pyiqa_rali_reasoning.json'
    card.write_text(json.dumps({**json.loads(card.read_text()), 'score_prompt': 'Give a number from {low:g} to {high:g}.'}))
    run(values)
    assert calls == [('rali-reasoning', 8)]


def test_an_interrupted_run_goes_on_with_what_it_has(tmp_path, monkeypatch, calls):
    from pyiqa_rali.evaluation.score_cache import ScoreCache
    add, added = ScoreCache.add, []

    def stop(self, *score):
        if len(added) == 7:
            raise KeyboardInterrupt
        added.append(score)
        add(self, *score)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreCache, 'add', stop)
        with pytest.raises(KeyboardInterrupt):
            run(options(tmp_path))
    calls.clear()
    root = run(options(tmp_path))
    assert len(calls) == 48 - 7 and len(rows(root / 'scores' / 'koniq10k.csv')) == 24


@pytest.fixture
def broken(tmp_path):
    """Options for a data set with a truncated, a missing and an impossible picture."""
    values = options(tmp_path)
    for name, end in (('004.png', 300), ('005.png', 0)):
        (tmp_path / 'data' / name).write_bytes((tmp_path / 'data' / name).read_bytes()[:end])
    (tmp_path / 'data' / '007.png').unlink()
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(tmp_path / 'data' / '010.png')  # too small for PIQE
    return values


def test_images_without_a_score_end_the_run_with_a_list(broken, tmp_path):
    with pytest.raises(DataError, match=r'no score: 4 of koniq10k by piqe, 3 of koniq10k by entropy; the first is .*004.png '
                                        r'\(unreadable: .*missing.csv.*missing: count'):
        run(broken)
    root = tmp_path / 'experiments' / 'tiny'
    assert {path.name for path in root.iterdir()} == {'options.yml', 'versions.json', 'counts.csv', 'missing.csv',
                                                    'overlap.csv', 'scores'}
    listed = {(row['metric'], row['image'][-7:], row['reason']) for row in rows(root / 'missing.csv')}
    assert listed == {(metric, name, 'unreadable') for metric in ('piqe', 'entropy') for name in
                      ('004.png', '005.png', '007.png')} | {('piqe', '010.png', 'failed')}


def test_they_can_be_counted_instead(broken):
    broken['statistics']['missing'] = 'count'
    root = run(broken)
    found = {row['metric']: (row['images'], row['scored'], row['missing']) for row in rows(root / 'results.csv')}
    assert found == {'piqe': ('24', '20', '4'), 'entropy': ('24', '21', '3')}
    assert rows(root / 'significance.csv')[0]['images'] == '20'
    assert {row['metric']: (row['unreadable'], row['failed']) for row in rows(root / 'counts.csv')} == {
        'piqe': ('3', '1'), 'entropy': ('3', '0')}
    cells = {row['image'][-7:]: (row['piqe'], row['entropy']) for row in rows(root / 'scores' / 'koniq10k.csv')}
    assert cells['004.png'] == ('', '') and cells['010.png'][0] == '' != cells['010.png'][1]


def test_scores_that_are_no_numbers_are_counted_and_not_kept(tmp_path, monkeypatch):
    import torch
    from pyiqa.models.inference_model import InferenceModel
    monkeypatch.setattr(InferenceModel, 'forward', lambda self, image: torch.full((len(image), 1), torch.nan))
    root = run(options(tmp_path, {'piqe': {}}, missing='count'))
    row = rows(root / 'results.csv')[0]
    assert (row['scored'], row['srcc'], row['fit']) == ('0', '', '0 scored images with MOS that differ are too few')
    assert rows(root / 'counts.csv')[0]['not_finite'] == '24' and '| piqe | none |' in (root / 'results.md').read_text()
    assert json.loads((root / 'results.json').read_text())['results'][0]['srcc'] is None
    monkeypatch.undo()
    assert rows(run(options(tmp_path, {'piqe': {}})) / 'results.csv')[0]['scored'] == '24'


def test_a_constant_metric_has_no_correlation(tmp_path, monkeypatch):
    import torch
    from pyiqa.models.inference_model import InferenceModel
    monkeypatch.setattr(InferenceModel, 'forward', lambda self, image: torch.ones(len(image), 1))
    root = run(options(tmp_path, {'piqe': {}}))
    row = rows(root / 'results.csv')[0]
    assert (row['scored'], row['plcc'], row['rmse'], row['fit']) == ('24', '', '', 'all scores are the same')
    assert 'Logistic fits that failed: 1 of 1.' in (root / 'results.md').read_text()


def full_reference(folder):
    """Return options for one data set with references and DMOS, where lower is better."""
    values = options(folder, {'psnr': {}, 'entropy': {}})
    table = values['datasets'].pop('koniq10k')
    pictures = rows(folder / 'data' / 'meta_info.csv')
    with open(folder / 'data' / 'fr.csv', 'w') as stream:
        stream.write('ref_name,dist_name,dmos\n' + ''.join(
            f'000.png,{row["image"]},{5 - float(row["mos"]):.4f}\n' for row in pictures[1:]))
    values['datasets']['csiq'] = {**table, 'type': 'GeneralFRDataset', 'meta_info_file': str(folder / 'data' / 'fr.csv'),
                                  'dataroot_ref': str(folder / 'data'), 'mos_range': [0, 4], 'lower_better': True}
    return values


def test_metrics_with_a_reference_and_mos_where_lower_is_better(tmp_path, calls):
    values = full_reference(tmp_path)
    root = run(values)
    from scipy.stats import spearmanr
    scores = rows(root / 'scores' / 'csiq.csv')
    expected = spearmanr([float(row['psnr']) for row in scores], [-float(row['mos']) for row in scores]).statistic
    row = next(row for row in rows(root / 'results.csv') if row['metric'] == 'psnr')
    assert float(row['srcc']) == pytest.approx(expected, abs=1e-5) and len(scores) == 23
    calls.clear()
    Image.fromarray(np.full((40, 48, 3), 7, dtype=np.uint8)).save(tmp_path / 'data' / '000.png')  # the reference of all
    run(values)
    assert calls == [('psnr', 1)] * 23


def test_pictures_of_one_size_share_a_batch_with_the_same_scores(tmp_path, calls):
    values = options(tmp_path, {'rali-lite': {}})
    first = rows(run(values) / 'scores' / 'koniq10k.csv')
    calls.clear()
    values['datasets']['koniq10k'].update(batch_size_per_gpu=7, num_worker_per_gpu=1)
    values['path']['score_cache'] = str(tmp_path / 'another')
    second = rows(run(values) / 'scores' / 'koniq10k.csv')
    assert [size for _, size in calls] == [7, 7, 7, 3]
    assert [float(row['rali-lite']) for row in second] == pytest.approx([float(row['rali-lite']) for row in first], abs=1e-4)


@pytest.mark.parametrize('draw', [random.random, np.random.rand, lambda: torch.rand(3)[2]], ids=['python', 'numpy', 'torch'])
def test_the_score_of_a_metric_that_draws_does_not_depend_on_the_batch(tmp_path, monkeypatch, draw):
    from pyiqa.models.inference_model import InferenceModel
    sizes = []

    def drawing(self, images):
        sizes.append(len(images))
        return torch.stack([image.mean() + draw() for image in images])

    monkeypatch.setattr(InferenceModel, 'forward', drawing)
    values = options(tmp_path, {'piqe': {}})
    alone = rows(run(values) / 'scores' / 'koniq10k.csv')
    sizes.clear()
    values['datasets']['koniq10k'].update(batch_size_per_gpu=7)
    values['path']['score_cache'] = str(tmp_path / 'another')
    assert rows(run(values) / 'scores' / 'koniq10k.csv') == alone
    assert sizes == [7] + [1] * 24  # asked for a batch once, to see that it draws


@pytest.mark.parametrize(('change', 'error', 'message'), [
    ({'metrics': {'psnr': {}}}, OptionError, 'psnr: compares with a reference image, and the data set koniq10k has none'),
    ({'metrics': {'rali-lite': {'size': 3}}}, CheckpointError, 'rali-lite: pyiqa cannot make .*unexpected keyword'),
    ({'metrics': {'rali': {'pretrained_model_path': 'no.safetensors'}}}, CheckpointError, 'rali: no.safetensors: no such file'),
    ({'num_gpu': 'two'}, OptionError, 'num_gpu')])
def test_what_cannot_be_done_is_told(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        run({**options(tmp_path), **change})


def test_a_data_set_without_any_picture_is_refused_before_anything_is_scored(tmp_path, calls):
    values = options(tmp_path)
    values['datasets']['koniq10k']['dataroot_target'] = 'nowhere'
    with pytest.raises(DataError, match='koniq10k: none of its 24 images is there; the first would be nowhere/000.png'):
        run(values)
    assert calls == [] and not (tmp_path / 'experiments').exists()


def test_the_folder_of_a_training_run_is_left_alone(tmp_path):
    folder = tmp_path / 'experiments' / 'tiny'
    folder.mkdir(parents=True)
    (folder / 'results.json').write_text('{}')
    with pytest.raises(OptionError, match=r'name: .*tiny is not empty and holds no evaluation. Choose another name'):
        run(options(tmp_path))
    assert (folder / 'results.json').read_text() == '{}'


def test_the_command_prints_the_tables_and_keeps_the_files_order(tmp_path, capsys):
    import yaml
    path = tmp_path / 'evaluate.yml'
    path.write_text(yaml.safe_dump({**options(tmp_path), 'model_type': 'EVALUATE'}, sort_keys=False))
    assert main(['evaluate', '-opt', str(path), '--force_yml', 'statistics:bootstrap=100']) == 0
    out = capsys.readouterr().out
    assert '100 resamples' in out and out.index('| piqe |') < out.index('| entropy |')
    assert main(['evaluate', '-opt', str(path), '--force_yml', 'statistics:bootstrap=1']) == 2
    assert 'resamples are too few' in capsys.readouterr().err


def odd_pictures(folder):
    """Write pictures of which pyiqa alone would read other pixels: 16-bit gray, transparent, turned by EXIF."""
    rng = np.random.default_rng(0)
    gray = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8)).resize((96, 64), Image.Resampling.BICUBIC))
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / '000.png')
    alpha = np.where(np.arange(96) < 48, 0, 255).astype(np.uint8) * np.ones((64, 1), np.uint8)
    Image.fromarray(np.dstack([gray, gray, gray, alpha])).save(folder / '001.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gray).save(folder / '002.png', exif=exif)
    return folder


def test_a_file_has_one_score_in_score_and_evaluate_and_one_picture_in_training(tmp_path):
    from pyiqa_rali.data.image_files import read_rgb
    from pyiqa_rali.data.tables import build_table
    values = options(tmp_path, {'rali-lite': {}})
    data = odd_pictures(tmp_path / 'data')
    evaluated = {row['image']: float(row['rali-lite']) for row in rows(run(values) / 'scores' / 'koniq10k.csv')}
    assert main(['score', str(data), '--out', str(tmp_path / 's.csv'), '--device', 'cpu']) == 0
    scored = {row['image']: float(row['score']) for row in rows(tmp_path / 's.csv')}
    assert len(scored) == 24 and scored == pytest.approx(evaluated, abs=1e-5)
    table = build_table('train', {'name': 'x', **values['datasets']['koniq10k']}, 0)
    for index in range(3):
        expected = torch.from_numpy(read_rgb(table.image_names()[index])).permute(2, 0, 1).float().div(255)
        assert torch.equal(table[index]['img'], expected)
    values['datasets']['koniq10k']['upright'] = False
    as_stored = {row['image']: float(row['rali-lite']) for row in rows(run(values) / 'scores' / 'koniq10k.csv')}
    assert [image[-7:] for image in scored if as_stored[image] != pytest.approx(evaluated[image], abs=1e-5)] == ['002.png']
    assert main(['score', str(data), '--out', str(tmp_path / 'a.csv'), '--device', 'cpu', '--as-stored']) == 0
    assert {row['image']: float(row['score']) for row in rows(tmp_path / 'a.csv')} == pytest.approx(as_stored, abs=1e-5)
    assert {row['metric'] for row in rows(tmp_path / 'a.csv')} == {'rali-lite as-stored'}


def test_the_pixel_limit_of_a_data_set_is_an_option(tmp_path):
    values = options(tmp_path, {'entropy': {}}, missing='count')
    values['datasets']['koniq10k']['pixel_limit'] = 40 * 48 - 1
    root = run(values)
    assert {row['message'] for row in rows(root / 'missing.csv')} == {
        'its 1920 pixels are more than the limit; raise --pixel-limit (pixel_limit in option files and create_metric), '
        'or make it smaller'}
    values['datasets']['koniq10k']['pixel_limit'] = 0
    with pytest.raises(OptionError, match='datasets: koniq10k: pixel_limit: 0 must be at least 1'):
        run(values)


def remembering(folder, names):
    """Return a checkpoint of rali-lite's weights that remembers having been trained on pictures of `folder`/data."""
    from pyiqa_rali.data.inspection import inspect_images
    from pyiqa_rali.data.training_images import KEY, TrainingImages
    from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint
    from pyiqa_rali.model.locate import locate_checkpoint
    tensors, metadata = load_checkpoint(locate_checkpoint('rali-lite'))
    record = TrainingImages.of({'mine': inspect_images(folder / 'data' / name for name in names)})
    save_checkpoint(folder / 'mine.safetensors', tensors, {**metadata, KEY: record.to_dict()})
    return {'mine': {'name': 'rali', 'pretrained_model_path': str(folder / 'mine.safetensors')}, 'rali-lite-v1': {}, 'piqe': {}}


def test_test_images_that_a_metric_was_trained_on_end_the_run(tmp_path, calls):
    values = options(tmp_path)
    values['metrics'] = remembering(tmp_path, ['003.png', '007.png'])
    with pytest.raises(DataError, match=r'mine on koniq10k: 2 of 24 test images were trained on: .*003.png, .*007.png\.'):
        run(values)
    assert calls == [] and not (tmp_path / 'experiments' / 'tiny' / 'results.json').exists()


def test_they_can_be_counted_and_what_is_not_known_is_not_assumed(tmp_path, capsys):
    values = options(tmp_path, overlap='count')
    values['metrics'] = remembering(tmp_path, ['003.png', '007.png'])
    root = run(values)
    found = {row['metric']: (row['images'], row['trained_on'], row['first'][-15:]) for row in rows(root / 'overlap.csv')}
    assert found == {'mine': ('24', '2', str(tmp_path / 'data' / '007.png')[-15:]), 'rali-lite-v1': ('24', '', ''),
                     'piqe': ('24', '', '')}
    text = (root / 'results.md').read_text()
    assert '| koniq10k | mine | 2 of 24: 003.png, 007.png |' in text and '| koniq10k | rali-lite-v1 | unknown |' in text
    assert main(['report', str(root), '--out', str(tmp_path / 'report.html')]) == 0
    page = (tmp_path / 'report.md').read_text()
    assert '2 of 24: 003.png, 007.png' in page and 'unknown' in page
    written = root / 'options.yml'
    written.write_text(written.read_text().replace('overlap: count', 'overlap: fail'))
    capsys.readouterr()
    assert main(['report', str(root), '--out', str(tmp_path / 'report.html')]) == 2
    assert '2 of 24 test images of koniq10k were trained on' in capsys.readouterr().err
    results = json.loads((root / 'results.json').read_text())
    del results['overlap']
    (root / 'results.json').write_text(json.dumps(results))
    assert main(['report', str(root), '--out', str(tmp_path / 'report.html')]) == 0
    assert 'trained on is unknown: these results are of a version' in (tmp_path / 'report.md').read_text()


def test_a_metric_that_was_trained_on_other_images_scores(tmp_path):
    values = options(tmp_path)
    metrics = remembering(tmp_path, ['003.png'])
    Image.fromarray(np.full((40, 48, 3), 90, dtype=np.uint8)).save(tmp_path / 'data' / '003.png')  # another picture now
    values['metrics'] = {'mine': metrics['mine']}
    assert [row['trained_on'] for row in rows(run(values) / 'overlap.csv')] == ['0']
