"""Scores by onnxruntime: those of PyTorch, from a file that is made once for each set of weights."""

import copy
import multiprocessing
import pickle

import pyiqa
import pytest
import torch

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.model.onnx import agreement, backend, network
from pyiqa_rali.model.rali import RALI
from tests.unit.test_rali import TIMM, random_rali
from tests.unit.test_surroundings import HEAD, pictures, saved

SMALL = {**TIMM, 'preprocessing': {**TIMM['preprocessing'], 'resize_size': 64}}


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp('weights'), SMALL)


@pytest.fixture
def metric(path):
    """A metric whose file is made once for the tests here; conftest gives the session a cache folder of its own."""
    return pyiqa.create_metric('rali', device='cpu', pretrained_model_path=path, backend='onnx')


@pytest.fixture
def never_exports(monkeypatch):
    monkeypatch.setattr(backend, '_export', lambda net, path: pytest.fail('exported'))


def test_scores_are_those_of_torch(metric, path):
    plain = pyiqa.create_metric('rali', device='cpu', pretrained_model_path=path)
    for size in ((48, 60), (64, 33), (16, 16), (150, 90), (600, 400)):
        found, expected = metric(pictures(3, size)), plain(pictures(3, size))
        assert found.shape == (3, 1) and found.dtype == torch.float32
        assert (found - expected).abs().max() < 4e-5  # 1e-5 of the range
    assert metric.score_range == plain.score_range
    gray = torch.rand(1, 1, 40, 40).half()
    assert (metric(gray) - plain(gray)).abs().max() < 4e-5
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(metric(pictures()), metric(pictures()).float())


def test_a_score_does_not_depend_on_its_batch(metric):
    images = pictures(5, (301, 211))
    assert torch.equal(metric(images), torch.cat([metric(image[None]) for image in images]))


def test_the_file_is_made_once(metric, path, never_exports):
    again = RALI(pretrained_model_path=path, backend='onnx')
    assert torch.equal(again(pictures()), metric(pictures()))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(other(pictures()), metric(pictures()))


def test_other_weights_are_exported_in_turn(path, monkeypatch):
    made = []
    monkeypatch.setattr(backend, '_export', lambda net, path: made.append(path))
    net = RALI(pretrained_model_path=path)
    first = backend.network_file(net)
    scorer = backend.OnnxScorer()
    assert scorer.file(net) == first
    with torch.no_grad():
        net.scorer.basis_scores.add_(0.1)
    second = scorer.file(net)
    net.load_state_dict(random_rali(SMALL, seed=9).state_dict())
    third = scorer.file(net)
    assert len({first, second, third}) == 3 and made[-2:] == [second, third]


def test_what_it_cannot_do_is_said(metric, path, monkeypatch):
    with pytest.raises(OptionError, match='backend: "onx" is not one of torch, onnx. Did you mean "onnx"'):
        RALI(pretrained_model_path=path, backend='onx')
    for options, other in (({'precision': 'bf16'}, 'precision: bf16'), ({'trainable': True}, 'trainable: true')):
        with pytest.raises(OptionError, match=f'backend: onnx computes in float32 .* cannot be combined with {other}'):
            RALI(pretrained_model_path=path, backend='onnx', **options)
    with pytest.raises(OptionError, match='backend: onnx has no gradient to the pixels. Leave backend out'):
        metric.net(pictures().requires_grad_())
    with pytest.raises(OptionError, match='backend: onnx computes on the CPU, and the pictures are on meta'):
        metric.net.score_prepared(pictures().to('meta'))
    monkeypatch.setattr(backend, 'is_installed', lambda *names: 'onnxruntime' not in names)
    with pytest.raises(OptionError, match=r'backend: onnx needs onnxruntime. Install it: pip install "pyiqa-rali\[onnx\]"'):
        RALI(pretrained_model_path=path, backend='onnx')


def test_an_export_needs_its_packages_and_a_finished_file_does_not(metric, path, monkeypatch):
    monkeypatch.setattr(network, 'NEEDED', ('onnx', 'onnx_that_is_not_there'))
    assert torch.equal(RALI(pretrained_model_path=path, backend='onnx')(pictures()), metric(pictures()))
    net = random_rali(SMALL, seed=11)
    net.trainable = False
    with pytest.raises(OptionError, match='backend: onnx: needs onnx_that_is_not_there'):
        net.use_backend('onnx')


def test_a_network_with_other_scores_is_not_kept(metric, monkeypatch):
    net = random_rali(SMALL, seed=12)
    net.trainable = False
    finished = metric.net._onnx.file(metric.net)
    monkeypatch.setattr(backend, 'exported', lambda *args: __import__('onnx_ir').load(finished))
    with pytest.raises(CheckpointError, match='is not kept: its scores differ by'):
        net.use_backend('onnx')
    assert not backend.network_file(net).exists()


def test_a_damaged_file_is_named(metric, path):
    file = metric.net._onnx.file(metric.net)
    content = file.read_bytes()
    file.write_bytes(content[:100])
    try:
        with pytest.raises(CheckpointError, match=f'{file.name}: onnxruntime cannot read it .* Remove it, and it will be '
                                                  'made again'):
            RALI(pretrained_model_path=path, backend='onnx')(pictures())
    finally:
        file.write_bytes(content)


def test_number_of_threads_is_torchs(metric, monkeypatch):
    class Opened(BaseException):  # what opens a session turns every Exception into an error of its own
        """Ends the test where a session would be opened."""

    def open_session(path, threads):
        seen.append(threads)
        raise Opened

    seen = []
    monkeypatch.setattr(agreement, 'open_session', open_session)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(Opened):
            metric(pictures())
    finally:
        torch.set_num_threads(threads)
    assert seen == [threads + 1]


def test_idle_threads_leave_the_cores_to_pytorch(metric):
    metric(pictures())
    session, = metric.net._onnx._sessions.values()
    assert session.get_session_options().get_session_config_entry('session.intra_op.allow_spinning') == '0'


@pytest.mark.slow
@pytest.mark.parametrize('method', multiprocessing.get_all_start_methods())
def test_it_scores_in_other_processes(metric, method):
    expected = metric(pictures())  # with a session in this process
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert torch.equal(pool.apply(metric, (pictures(),)), expected)


def rows(table):
    lines = table.read_text().splitlines()[1:]
    return [line.rsplit(',', 3) for line in lines]


@pytest.fixture
def folder(tmp_path):
    from PIL import Image
    for number in range(4):
        Image.effect_noise((80, 64), 20 + 10 * number).convert('RGB').save(tmp_path / f'{number}.png')
    return tmp_path


def score(folder, path, *more):
    return main(['score', *map(str, sorted(folder.glob('*.png'))), '--weights', str(path), '--device', 'cpu', *more])


def test_score_takes_it_where_the_file_is_there_and_says_so(metric, path, folder, never_exports):
    for name, options, said in (('fast', (), True), ('asked', ('--metric-opt', 'backend=onnx'), True),
                                ('plain', ('--metric-opt', 'backend=torch'), False)):
        assert score(folder, path, '--out', str(folder / f'{name}.csv'), *options) == 0
        assert [row[-1].endswith(' backend=onnx') for row in rows(folder / f'{name}.csv')] == [said] * 4
    plain = pyiqa.create_metric('rali', device='cpu', pretrained_model_path=path)
    for image, value, _, _ in rows(folder / 'fast.csv'):
        pixels = torch.from_numpy(read_rgb(image)).permute(2, 0, 1)[None].float() / 255
        assert float(value) == pytest.approx(plain(pixels).item(), abs=1e-4)


def test_score_exports_for_many_images_alone(path, folder, tmp_path, monkeypatch):
    from pyiqa_rali.cli import score as command
    other = saved(tmp_path, SMALL, seed=21)
    asked = []
    monkeypatch.setattr(backend, '_export', lambda net, path: asked.append(path) or (_ for _ in ()).throw(OptionError('no')))
    assert score(folder, other, '--out', str(folder / 'few.csv')) == 0 and not asked
    monkeypatch.setattr(command, 'MANY', 4)
    assert score(folder, other, '--out', str(folder / 'many.csv')) == 0 and len(asked) == 1
    assert [row[-1].endswith('backend=onnx') for row in rows(folder / 'many.csv')] == [False] * 4  # it went wrong: torch
    assert len(rows(folder / 'many.csv')) == 4


@pytest.mark.parametrize(('begun', 'extension'), [('torch', 'csv'), ('torch', 'jsonl'), ('onnx', 'csv'), ('onnx', 'parquet')])
def test_a_table_goes_on_as_it_was_begun(metric, path, folder, begun, extension):
    table, first = folder / f'scores.{extension}', sorted(folder.glob('*.png'))[:2]
    assert main(['score', *map(str, first), '--weights', str(path), '--device', 'cpu', '--out', str(table), '--metric-opt',
                 f'backend={begun}']) == 0
    if begun == 'torch':  # as a table of a machine without onnxruntime names it
        table.write_text(table.read_text().replace(' backend=torch', ''))
    assert score(folder, path, '--out', str(table), '--resume') == 0
    if extension == 'parquet':
        from pyarrow import parquet
        names = parquet.read_table(table)['metric'].to_pylist()
        assert len(names) == 4 and all(name.endswith(' backend=onnx') for name in names)
    else:
        content = table.read_text()
        assert content.count('.png') == 4 and content.count('backend=onnx') == (4 if begun == 'onnx' else 0)


def test_metrics_that_it_is_not_for_are_left_alone(metric, tmp_path):
    from pyiqa_rali.scoring.metrics import with_fastest_backend
    piqe = pyiqa.create_metric('piqe', device='cpu')
    assert with_fastest_backend(piqe, {}, True) == {}
    assert with_fastest_backend(metric, {'backend': 'torch'}, True) == {'backend': 'torch'}
    transformer = pyiqa.create_metric('rali', device='cpu', pretrained_model_path=saved(tmp_path, HEAD))
    assert with_fastest_backend(transformer, {}, True) == {} and transformer.net.backend == 'torch'
