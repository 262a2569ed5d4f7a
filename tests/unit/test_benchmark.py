"""The benchmark: its grid, its rows, and what it compares with; every model is tiny."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.processor import described_processor
from pyiqa_rali.model.release.pickles import read_joblib
from pyiqa_rali.studies.benchmark import measure, pipeline, processes, reasoner, report
from pyiqa_rali.studies.benchmark import options as benchmark_module
from pyiqa_rali.studies.benchmark.cells import Cell, cells_of
from pyiqa_rali.studies.benchmark.options import PRESETS, benchmark_options, number_of_threads, size_of
from pyiqa_rali.studies.benchmark.processes import Rows, measure_subject
from pyiqa_rali.studies.benchmark.release import ENCODERS, ReleasePath, pca_pickle, write_random_release
from pyiqa_rali.studies.benchmark.subjects import LEFT_OUT, OFFLINE, Subject, bare_tower, build, subjects_for

FEW = ['--encoder', 'tiny', '--sizes', '96x80', '--threads', '1', '--repeats', '2', '--check-images', '0',
       '--pipeline-images', '0', '--precisions', 'fp32']


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    y, x = np.mgrid[0:90, 0:130]
    for index in range(4):
        waves = 128 + 100 * np.sin(np.stack([x / (3 + index), y / (7 + index), (x + y) / 5], -1))
        noisy = np.clip(waves + generator.normal(0, 8 * index, waves.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / f'{index}.png')
    return sorted(folder.iterdir())


@pytest.fixture(scope='module')
def release(tmp_path_factory, pictures):
    return write_random_release(tmp_path_factory.mktemp('weights') / 'release', 'tiny', pictures)


def test_the_release_path_and_ours_score_alike(release, pictures):
    theirs, ours = ReleasePath(release), build(Subject('rali', options={'pretrained_model_path': str(release)}), 'cpu')
    scores = torch.cat([theirs.from_files([str(path)]) for path in pictures])
    assert scores.std() > 0.1  # the pictures are told apart
    assert (torch.cat([ours.from_files([str(path)]) for path in pictures]) - scores).abs().max() < 5e-3 * 4
    images = torch.cat([measure.picture_tensor(str(path)) for path in pictures])
    assert torch.allclose(theirs.from_tensor(images), scores, atol=1e-5)
    assert torch.allclose(ours.from_files([str(path) for path in pictures]), ours.from_tensor(images), atol=1e-5)


def test_the_random_release_is_written_once_and_again_when_cut_short(tmp_path, pictures):
    folder = write_random_release(tmp_path / 'release', 'tiny', pictures)
    written = (folder / 'ckpt.pt').stat().st_mtime_ns
    write_random_release(folder, 'tiny', pictures)
    assert (folder / 'ckpt.pt').stat().st_mtime_ns == written
    (folder / 'random.json').unlink()
    write_random_release(folder, 'tiny', pictures)
    assert (folder / 'ckpt.pt').stat().st_mtime_ns > written


def test_the_pickle_is_one_that_scikit_learn_reads(tmp_path):
    import joblib
    (tmp_path / 'pca.pkl').write_bytes(pca_pickle({'mean_': np.arange(5, dtype=np.float32)}))
    assert np.array_equal(read_joblib(tmp_path / 'pca.pkl')['mean_'], np.arange(5))
    pca = joblib.load(tmp_path / 'pca.pkl')
    assert type(pca).__name__ == 'PCA' and np.array_equal(pca.mean_, np.arange(5))


@pytest.mark.slow
def test_the_command_measures_reports_and_goes_on(tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['benchmark', '--out', str(out), '-m', 'release', 'rali', *FEW, '--weights-folder',
                 str(tmp_path / 'w'), '--inputs', 'file', 'tensor', 'tower', '--check-images', '3']
    assert main(arguments) in (0, 1)  # 1 where the exact mode is not there
    printed = capsys.readouterr().out
    assert 'first score of a file' in printed and 'maclip' in printed and 'Scores beside those of the release' in printed
    with open(out / 'benchmark.csv', newline='') as stream:
        rows = {(row['section'], row['subject'], row['input']): row for row in csv.DictReader(stream)}
    assert float(rows['speed', 'release fp32', 'file']['time_ratio']) == 1
    ours, tower = rows['speed', 'rali fp32', 'tensor'], rows['speed', 'rali fp32', 'tower']
    assert float(ours['min_ms']) <= float(ours['median_ms']) <= float(ours['max_ms']) and float(ours['peak_mb']) > 50
    assert float(ours['tower_share']) == pytest.approx(float(tower['median_ms']) / float(ours['median_ms']))
    assert 0 < float(tower['peak_share']) < 1.5 and float(tower['gflops']) > 0
    assert float(rows['scores', 'rali fp32', '']['difference_share']) < 5e-3
    assert float(rows['start', 'rali fp32', '']['start_s']) > float(rows['start', 'rali fp32', '']['load_s']) > 0
    assert {path.name for path in (out / 'figures').iterdir()} == {'times.png', 'ratios.png'}
    assert {row['processor'] for row in rows.values()} == {described_processor()} and described_processor() in printed
    assert rows['speed', 'rali fp32', 'file']['computed_by'] in ('fp32, torch', 'fp32, onednn')
    assert rows['speed', 'release fp32', 'file']['computed_by'] == ''
    before = (out / 'rows.jsonl').read_text()
    assert main([*arguments, '--resume', '-m', 'release']) in (0, 1)  # nothing is missing: nothing is measured
    assert (out / 'rows.jsonl').read_text() == before


def test_rali_lite_is_measured_by_each_backend_and_says_what_computed(monkeypatch):
    subjects = subjects_for(['rali-lite', 'rali', 'cnniqa'], ['fp32', 'bf16'], 'folder', 'file', ['torch', 'onnx'])
    assert [subject.label for subject in subjects] == [
        'rali-lite fp32', 'rali-lite bf16', 'rali-lite fp32 onnx', 'rali fp32', 'rali bf16', 'cnniqa fp32']
    by_onnx = subjects[2]
    assert {cell.input for cell in cells_of(by_onnx, ['file', 'tensor', 'tower'], [(96, 80)], None, [1], 'cpu')} == {
        'file', 'tensor'}
    scorer = build(Subject('rali-lite', precision='fp32'), 'cpu')
    assert scorer.computed_by == 'fp32'  # nothing has decided yet
    counts: list[float] = []
    for library in ('torch', 'onednn'):
        monkeypatch.setenv('PYIQA_RALI_PRODUCTS', library)
        scorer = build(Subject('rali-lite', precision='fp32'), 'cpu')
        scorer.from_tensor(torch.rand(1, 3, 32, 32))
        assert scorer.computed_by == f'fp32, {library}'
        backbone, inputs = bare_tower(scorer, torch.rand(1, 3, 64, 64))
        counts.append(measure.gigaflops(lambda backbone=backbone, inputs=inputs: backbone(*inputs)))
    assert counts[1] == pytest.approx(counts[0], rel=0.05) and counts[0] > 0.05  # zeros for padding are operations too


def test_the_onnx_backend_is_for_cpus_with_its_packages(monkeypatch):
    assert 'onnx' in PRESETS['quick']['backends'] and PRESETS['gpu']['backends'] == ['torch']
    monkeypatch.setattr(benchmark_module, 'is_installed', lambda *names: False)
    with pytest.raises(OptionError, match='backends: onnx is for the device cpu, and needs pip install'):
        benchmark_options('quick', backends=['onnx'])


def test_a_half_written_row_is_measured_again(tmp_path):
    rows = Rows(tmp_path, {'a': 1}, False)
    rows.add({'section': 'start', 'subject': 'x'})
    with open(rows.path, 'a') as stream:
        stream.write('{"section": "st')
    assert Rows(tmp_path, {'a': 1}, True).rows == rows.rows
    with pytest.raises(OptionError, match='holds a benchmark already. Give --resume'):
        Rows(tmp_path, {'a': 1}, False)
    with pytest.raises(OptionError, match='was begun with another a: 1, now 2. Ratios hold within one run: give another'):
        Rows(tmp_path, {'a': 2}, True)


def _request(**changes):
    cells = [Cell('file', 20, 20, 1).to_dict(), Cell('tensor', 20, 20, 1).to_dict()]
    return {'subject': {'name': 'cnniqa', 'options': {}}, 'device': 'cpu', 'threads': 1, 'cells': cells, 'check': [],
            'starts': 1, **changes}


def test_a_process_that_dies_costs_one_cell(tmp_path, monkeypatch):
    asked = []

    def child(module, request, threads):
        asked.append(len(request['cells']))
        yield {'section': 'start', 'start_s': 1.0}
        if len(request['cells']) == 2:
            raise DataError('the process ended with status -9')
        yield {'section': 'speed', **request['cells'][0], 'median_ms': 2.0}

    monkeypatch.setattr(processes, 'child_rows', child)
    rows = list(measure_subject(Rows(tmp_path, {}, False), _request(), 'x'))
    assert [row.get('error') for row in rows] == [None, 'the process ended with status -9', None] and asked == [2, 1]


@pytest.mark.slow
def test_a_subject_that_cannot_be_built_is_tried_once(tmp_path, capsys):
    assert main(['benchmark', '--out', str(tmp_path / 'out'), '-m', 'clipiqa', *FEW]) == 1
    assert 'pkg_resources' in capsys.readouterr().out


def test_the_start_is_the_median_of_several(tmp_path, monkeypatch):
    seconds = iter([5.0, 1.0, 3.0])
    monkeypatch.setattr(processes, 'child_rows', lambda module, request, threads: iter(
        [{'section': 'start', 'start_s': next(seconds)}]))
    row, = measure_subject(Rows(tmp_path, {}, False), _request(cells=[], starts=3), 'x')
    assert row['start_s'] == 3


def test_what_is_done_once_a_machine_is_not_in_the_start(tmp_path, monkeypatch):
    seconds = iter([9.0, 1.0])
    monkeypatch.setattr(processes, 'child_rows', lambda module, request, threads: iter(
        [{'section': 'start', 'start_s': next(seconds)}]))
    row, = measure_subject(Rows(tmp_path, {}, False), _request(cells=[], subject={'name': 'rali-lite', 'options': {}}), 'x')
    assert row['start_s'] == 1 and row['processor'] == described_processor()


def test_the_grid_of_a_subject():
    sizes, peers = [(512, 384), (4000, 3000)], [(512, 384)]
    cells = cells_of(Subject('musiq'), ['file', 'tower', 'resident'], sizes, peers, [1, 8], 'cpu')
    assert cells == [Cell('file', 512, 384, 1), Cell('file', 512, 384, 8)]
    assert len(cells_of(Subject('rali'), ['file', 'tower', 'resident'], sizes, peers, [1], 'cuda')) == 6
    assert len(cells_of(Subject('release'), ['file', 'tower'], sizes, peers, [1], 'cpu')) == 2


def test_cells_that_would_take_too_long_are_left_out_with_the_reason():
    calls = {Cell('file', 512, 384, 8): 16.0}
    assert '64 s or more, over the limit of 60 s' in measure.too_long(Cell('file', 512, 384, 32), calls, 60)
    assert measure.too_long(Cell('file', 512, 384, 16), calls, 60) is None
    assert measure.too_long(Cell('tensor', 512, 384, 32), calls, 60) is None
    assert '384 megapixels' in measure.too_long(Cell('file', 4000, 3000, 32), {}, 60)


def test_no_call_begins_after_the_time_is_up():
    import time
    calls = []
    assert len(measure.time_calls(lambda: calls.append(time.sleep(0.02)), 50, 0.05, 'cpu')) < 5 and len(calls) > 1
    assert len(measure.time_calls(lambda: None, 4, 5.0, 'cpu')) == 4


def test_operations_are_counted():
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.randn(1, 5, 8)
    counted = measure.gigaflops(lambda: layer(tokens, tokens, tokens, need_weights=False))
    assert counted * 1e9 == 2 * (5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8)
    assert measure.attainable_tflops('fp32', 'cpu') > 1e-3


@pytest.mark.slow
def test_the_peak_is_what_was_once_in_use():
    """In a process of its own: this one's peak may be far above what it uses now."""
    peaks = subprocess.run([sys.executable, '-c', """
from pyiqa_rali.studies.benchmark.measure import peak_memory_mb, reset_peaks
print(peak_memory_mb())
block = bytearray(b'x') * (150 * 2 ** 20)
del block
print(peak_memory_mb())
reset_peaks('cpu')
print(peak_memory_mb())"""], capture_output=True, text=True, check=True).stdout.split()
    assert 140 < float(peaks[1]) - float(peaks[0]) < 200
    assert not sys.platform.startswith('linux') or float(peaks[2]) < float(peaks[1]) - 100


def test_a_model_that_writes_is_compared_with(tmp_path, release):
    asked = {'device': 'cpu', 'threads': 1, 'batch': 2, 'tokens': 3, 'repeats': 1, 'seconds': 9, 'width': 56, 'height': 84}
    row, = reasoner.main({**asked, 'size': 'tiny', 'subject': None})
    assert row['median_ms'] > 0 and row['parameters'] > 1e5
    model, call = reasoner.reasoner_call('tiny', 'cpu', 2, (84, 56), 3)
    inputs = reasoner.reasoner_inputs(model.config, 2, (84, 56), 'cpu')
    assert (inputs['input_ids'] == model.config.image_token_id).sum() == 2 * 3 * 2
    assert call().shape == (2, inputs['input_ids'].shape[1] + 3)
    own, = reasoner.main({**asked, 'size': None, 'subject': Subject('rali', options={
        'pretrained_model_path': str(release)}).to_dict()})
    assert own['images_per_s'] > 0


def test_the_paper_sized_model_has_the_parameters_of_qwen():
    assert sum(each.numel() for each in reasoner.random_reasoner('7b', 'meta').parameters()) == 8_292_166_656


@pytest.mark.slow
def test_the_pipeline_of_score(tmp_path, pictures):
    folder = pipeline.write_jpegs(tmp_path / 'jpeg', pictures, (64, 48), 24)
    assert len(list(folder.iterdir())) == 24 and Image.open(folder / '00023.jpg').size == (64, 48)
    decoded, = pipeline.main({'input': 'decode', 'folder': str(folder)})
    subject = Subject('rali-lite')
    alone, = pipeline.main({'input': 'model', 'folder': str(folder), 'subject': subject.to_dict(), 'device': 'cpu',
                            'threads': 1, 'batch': 4})
    whole = pipeline.command_row(subject, folder, tmp_path / 'scores.csv', 0, 'cpu', 8)
    assert decoded['images_per_s'] > alone['images_per_s'] > 0 and whole['images'] == 24
    assert 0 < whole['images_per_s'] < decoded['images_per_s']
    with pytest.raises(DataError, match='score: '):
        pipeline.command_row(Subject('rali-light'), folder, tmp_path / 'scores.csv', 0, 'cpu')


def test_shares_and_differences():
    pipeline_rows = [{'section': 'pipeline', 'subject': 'a', 'input': kind, 'device': 'cpu', 'images_per_s': value}
                     for kind, value in (('model', 20.0), ('decode', 100.0), ('score, 2 workers', 18.0))]
    assert [row.get('model_share') for row in report.with_ratios(pipeline_rows)] == [None, 5, 0.9]
    found = report.compare_scores([1, 2, 4], [1, 2.5, 4], 4.0)
    assert found == {'largest_difference': 0.5, 'difference_share': 0.125, 'srcc': pytest.approx(1)}
    writes = [{'section': 'reasoner', 'subject': name, 'input': kind, 'device': 'cpu', 'median_ms': time, 'peak_mb': memory}
              for name, kind, time, memory in (('q', 'reasoner', 100.0, 50.0), ('r', 'scores', 5.0, 10.0))]
    assert [row.get('time_ratio') for row in report.with_ratios(writes)] == [None, 0.05]


def test_every_name_that_is_told_about_is_one_of_pyiqa():
    import pyiqa
    known = set(pyiqa.list_models(metric_mode='NR'))
    left_out = {name for names in LEFT_OUT.values() for name in names}
    assert set(OFFLINE) | left_out <= known and not set(OFFLINE) & left_out


@pytest.mark.parametrize('name', OFFLINE)
def test_metrics_that_build_offline(name):
    assert build(Subject(name, options=OFFLINE[name]), 'cpu').from_tensor(torch.rand(1, 3, 224, 224)).shape[0] == 1


def test_the_figures_of_all_axes(tmp_path):
    from pyiqa_rali.figures.benchmark import draw_benchmark
    rows = [{'section': 'speed', 'subject': subject, 'device': 'cpu', 'threads': 1, 'input': 'file', 'width': width,
             'height': width, 'batch': batch, 'ms_per_image': width * batch, 'median_ms': 5.0, 'cpu_ms': 2.0}
            for subject in ('release fp32', 'rali bf16') for width in (64, 128) for batch in (1, 8)]
    rows += [{'section': 'pipeline', 'subject': 'rali-lite fp32', 'input': 'model', 'device': 'cpu', 'width': 64, 'height': 64,
              'images_per_s': 5.0}, {**rows[0], 'subject': 'musiq fp32', 'error': 'left out'}]
    rows += [{'section': 'start', 'subject': subject, 'device': 'cpu', 'threads': 1, 'start_s': 4.0, 'peak_mb': 900.0}
             for subject in ('release fp32', 'rali bf16')]
    assert report.is_busy(rows[0]) and 'In 9 cells OTHER PROGRAMS' in report.footnotes('tiny', rows)
    drawn = draw_benchmark(report.with_ratios(rows), tmp_path, report.RELEASE_LABEL, ('rali', 'rali-lite'))
    assert {path.name for path in drawn} == {
        'times.png', 'ratios.png', 'sizes.png', 'batches.png', 'pipeline.png'}


@pytest.mark.parametrize('arguments, message', [
    (['--repeats', '0'], 'repeats: 0 must be at least 1'), (['--threads', '0'], 'threads: "0" must be all or a number'),
    (['--sizes', '0x5'], '--sizes: "0x5" must be WIDTHxHEIGHT'), (['--sizes', '512'], '--sizes: "512"'),
    (['--batches', '0'], 'batches: element 1: 0 must be at least 1'), (['--preset', 'quik'], 'Did you mean "quick"?'),
    (['--encoder', 'large'], 'encoder: "large" is not one of'),
    (['--inputs', 'files'], 'Did you mean "file"?'), (['--device', 'cuda:99'], '--device: "cuda:99" cannot be used'),
    (['--precisions', 'fp8', '-m', 'rali-lite'], 'precisions: element 1: "fp8" is not one of fp32, bf16, fp16'),
    (['-m', 'rali-lit'], 'Did you mean "rali-lite"?'), (['--reasoner', '8b'], 'reasoner: "8b" is not one of 7b, tiny'),
    (['--image', '/gone.png', '-m', 'piqe'], '/gone.png: cannot be read as an image')])
def test_arguments_that_cannot_be_used(tmp_path, capsys, arguments, message):
    assert main(['benchmark', '--out', str(tmp_path / 'out'), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_one_metric_on_one_file(pictures):
    from pyiqa_rali.studies.benchmark.processes import measure_metric
    found = measure_metric('piqe', str(pictures[0]), 2, 1, 'cpu')
    assert found['repeats'] == 2 and found['parameters'] == 0 and found['start_s'] > found['load_s']


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_are_options_that_can_be_used(preset):
    changes = {'device': 'cpu', 'sizes': [(64, 48)], 'threads': [1, 'all', 1]}
    options = benchmark_options(preset, **changes)
    assert options.peer_sizes == options.sizes == [(64, 48)] and options.threads[0] == 1
    assert len(set(options.threads)) == len(options.threads) <= 2
    assert options.repeats == PRESETS[preset]['repeats'] and options.pipeline_metrics == ['rali-lite']


def test_the_sizes_that_options_name_are_there():
    assert set(benchmark_module.ENCODERS) == set(ENCODERS) and set(benchmark_module.REASONERS) == set(reasoner.SIZES)


def test_sizes_threads_and_subjects():
    assert size_of('--sizes', '4000X3000') == (4000, 3000) and number_of_threads('1') == 1 and number_of_threads('all') >= 1
    labels = [subject.label for subject in subjects_for(['rali-lite', 'piqe'], ['fp32', 'bf16'], '', '')]
    assert labels == ['rali-lite fp32', 'rali-lite bf16', 'piqe fp32']
    assert json.loads(json.dumps(Subject('rali', 'bf16').to_dict()))['precision'] == 'bf16'
