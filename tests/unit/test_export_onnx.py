import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.export import onnx_model
from pyiqa_rali.export.comparison import compare
from pyiqa_rali.export.fitting import Nodes, add_fitting
from pyiqa_rali.export.int8 import quantisation_method, quantise
from pyiqa_rali.export.pictures import as_input
from pyiqa_rali.export.run import ComparisonOptions, Export, Int8Options, export_metric
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.model.onnx import network
from pyiqa_rali.model.onnx.agreement import check_agreement, open_session, varied_pictures
from pyiqa_rali.model.preprocessing import Preprocessing, fit_to_encoder
from pyiqa_rali.model.rali import RALI
from tests.tiny import tiny_open_clip_config

TIMM = {'library': 'timm', 'name': 'tf_mobilenetv3_small_minimal_100', 'embed_dim': 12, 'pooling': 'mean_std',
        'projection_dim': 20, 'preprocessing': {'image_size': None, 'resize_size': 64, 'resize_mode': 'native'}}
SIZES = [(16, 16), (64, 64), (48, 90), (90, 48), (33, 70), (63, 65), (128, 128), (20, 301), (301, 17), (201, 150)]


def trained(encoder):
    """Return a net with random weights whose scores spread: its features are standardised."""
    torch.manual_seed(0)
    net = RALI(pretrained=False, image_encoder=encoder, pca_dim=6, num_basis=9, mos_range=(1, 5), lower_better=False)
    with torch.no_grad():
        for name in ('pca_components', 'basis_vectors'):
            getattr(net.scorer, name).normal_()
        net.scorer.basis_scores.copy_(torch.linspace(1, 5, 9))
        features = net.image_encoder(torch.cat([varied_pictures((1, 64, 64), torch.Generator().manual_seed(seed))
                                                for seed in range(8)]))
        net.scorer.pca_mean.copy_(features.mean(0))
        net.scorer.pca_scale.copy_(features.std(0) + 1e-6)
    return net.requires_grad_(False)


@pytest.fixture(scope='session', params=['timm', 'open_clip'])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('onnx')
    encoder = TIMM if request.param == 'timm' else {
        'library': 'open_clip', 'name': tiny_open_clip_config(folder), 'embed_dim': 16, 'preprocessing': {'image_size': 32}}
    net = trained(encoder)
    onnx_model.save_model(folder / 'float.onnx', onnx_model.onnx_model(net))
    return net, folder / 'float.onnx'


def scores_of(path, images):
    return torch.from_numpy(open_session(path).run(None, {'images': images.numpy()})[0])


@pytest.mark.parametrize('count, size', [(1 + index % 3, size) for index, size in enumerate(SIZES)])
def test_the_file_gives_the_scores_of_torch(exported, count, size):
    net, path = exported
    images = varied_pictures((count, *size), torch.Generator().manual_seed(count))
    expected = net(images)
    scores = scores_of(path, images)
    assert scores.shape == (count, 1) and scores.dtype == torch.float32
    assert (scores - expected).abs().max() < 4e-5


def test_the_file_says_what_it_is_and_nothing_of_this_machine(exported):
    net, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata['pyiqa_rali']) == json.loads(json.dumps(net.metadata))
    assert metadata['mos_range'] == '1, 5' and metadata['lower_better'] == 'false' and metadata['licence'] == 'not stated'
    assert {'pyiqa-rali', 'torch', 'onnx'} <= set(json.loads(metadata['versions']))
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == ['N', 3, 'H', 'W']
    assert str(onnx_model.__file__).encode() not in path.read_bytes() and not any(
        node.metadata_props or node.doc_string for node in model.graph.node)


def test_exporting_leaves_the_net_as_it_was(exported):
    net, _ = exported
    kinds = {type(module).__name__ for module in net.modules()}
    assert ('Conv2dSame' in kinds) == (net.image_encoder.config.library == 'timm')


def test_the_check_passes_a_good_file_and_refuses_another_net(exported):
    net, path = exported
    found = check_agreement(path, net, 'a.onnx')
    assert found['largest_difference'] < found['allowed'] == pytest.approx(4e-4) and len(found['sizes']) == 10
    other = trained(net.image_encoder.config.to_dict())
    other.scorer.basis_scores += 0.001
    with pytest.raises(CheckpointError, match='a.onnx: is not kept: its scores differ by 0.001 from those of torch'):
        check_agreement(path, other, 'a.onnx')


def test_a_file_that_fails_its_check_does_not_replace_a_good_one(exported, tmp_path):
    _, path = exported
    import onnx_ir as ir
    (tmp_path / 'a.onnx').write_bytes(b'good')

    def refuse(written):
        assert written.stat().st_size > 1000
        raise CheckpointError('no')
    with pytest.raises(CheckpointError, match='no'):
        onnx_model.save_model(tmp_path / 'a.onnx', ir.load(path), refuse)
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [('a.onnx', b'good')]


def pictures(count, size=(64, 80)):
    generator = torch.Generator().manual_seed(5)
    return [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in varied_pictures((count, *size), generator)]


@pytest.fixture(scope='session')
def exported_in_8_bits(exported):
    net, path = exported
    target = path.with_name('int8.onnx')
    return net, path, target, quantise(path, target, pictures(4), keep_float=3)


def test_the_8_bit_file_is_smaller_and_close(exported_in_8_bits):
    net, path, target, note = exported_in_8_bits
    static = net.image_encoder.config.library == 'timm'
    assert note['method'] == quantisation_method(path) == ('static' if static else 'dynamic')
    assert target.stat().st_size < (0.5 if static else 0.9) * path.stat().st_size
    found = compare(net, {'float': path, 'int8': target}, pictures(12))
    assert found['float']['largest_difference'] < 4e-5 and found['float']['srcc'] == pytest.approx(1)
    assert 1e-4 < found['int8']['largest_difference'] < 2 and found['int8']['plcc'] > 0.5
    assert found['pictures'] == 12 and all(found[name]['milliseconds'] > 0 for name in ('torch', 'float', 'int8'))
    metadata = {item.key: item.value for item in onnx.load(target).metadata_props}
    assert json.loads(metadata['int8']) == note and json.loads(metadata['pyiqa_rali'])['mos_range'] == [1, 5]


def test_what_stays_in_float_stays_in_float(exported_in_8_bits, tmp_path):
    net, path, target, note = exported_in_8_bits
    graph = onnx.load(target).graph
    if net.image_encoder.config.library == 'timm':
        assert note['float_convolutions'] == 3 and note['calibration_pictures'] == 4
        initializers = {item.name for item in graph.initializer}
        convolutions = [node for node in graph.node if node.op_type == 'Conv']
        assert sum(node.input[1] in initializers for node in convolutions) == 3 < len(convolutions) == note['convolutions']
        with pytest.raises(OptionError, match='--keep-float: 999 must be from 0 to'):
            quantise(path, tmp_path / 'other.onnx', pictures(2), keep_float=999)
        assert not list(tmp_path.iterdir())
    else:
        kinds = [node.op_type for node in graph.node if node.name.startswith('preprocess/')]
        assert 'If' in kinds and not [kind for kind in kinds if 'Integer' in kind or 'Quantize' in kind]


@pytest.mark.parametrize('preprocessing', [
    Preprocessing(48), Preprocessing(48, 56, 'shortest', 'bilinear', 'floor'), Preprocessing(48, 40, 'shortest'),
    Preprocessing(48, 48, 'longest'), Preprocessing(48, 48, 'squash'), Preprocessing(None, 64, 'native', 'bilinear'),
    Preprocessing(None, None, 'native')], ids=lambda item: f'{item.resize_mode}-{item.resize_size}-{item.interpolation}')
@pytest.mark.parametrize('opset', [18, 22])
def test_the_graph_resizes_as_torch_does(preprocessing, opset):
    import onnx_ir as ir
    nodes = Nodes()
    images = ir.Value(name='images', shape=ir.Shape(['N', 3, 'H', 'W']), type=ir.TensorType(ir.DataType.FLOAT))
    fitted = nodes('Identity', add_fitting(nodes, images, preprocessing))
    fitted.type, fitted.shape = images.type, ir.Shape(['N', 3, 'h', 'w'])
    model = ir.to_proto(ir.Model(ir.Graph([images], [fitted], nodes=nodes.nodes, opset_imports={'': opset}, name='fitting'),
                                 ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    import onnxruntime
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    for height, width in [*SIZES, (47, 48), (24, 24), (96, 96), (40, 700), (30, 100)]:
        pictures = varied_pictures((2, height, width), torch.Generator().manual_seed(height))
        found = session.run(None, {'images': pictures.numpy()})[0]
        expected = fit_to_encoder(pictures, preprocessing).numpy()
        assert found.shape == expected.shape
        other = np.abs(found - expected) > 1e-6
        assert other.mean() < 2e-3 and np.abs(found - expected).max() < 1.1 / 255  # pixels exactly between two levels


@pytest.fixture
def checkpoint(tmp_path):
    net = trained({'library': 'open_clip', 'name': tiny_open_clip_config(tmp_path), 'embed_dim': 16,
                   'preprocessing': {'image_size': 32}})
    tensors = {name: tensor for name, tensor in net.state_dict().items() if name != '_extra_state'}
    save_checkpoint(tmp_path / 'rali.safetensors', tensors, {**net.metadata, 'name': 'tiny', 'licence': 'Apache-2.0'})
    (tmp_path / 'photos').mkdir()
    for index, picture in enumerate(pictures(4)):
        Image.fromarray(picture).save(tmp_path / 'photos' / f'{index}.png')
    return tmp_path


@pytest.mark.slow
def test_the_command_writes_checks_and_compares(checkpoint, capsys):
    out = checkpoint / 'out' / 'tiny.onnx'
    arguments = ['--weights', str(checkpoint), '--int8', '--check', str(checkpoint / 'photos'), '--pictures', '5']
    assert main(['export-onnx', str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert '10 batches of other sizes give the scores of torch within' in printed and 'dynamic quantisation.' in printed
    assert '5 distorted pictures' in printed and '80 x 64 pixels' in printed
    assert sorted(item.name for item in out.parent.iterdir()) == ['tiny.int8.onnx', 'tiny.json', 'tiny.onnx']
    report = json.loads(out.with_suffix('.json').read_text())
    assert report['comparison']['float']['largest_difference'] < 4e-5 and report['float']['opset'] == 20
    picture = np.asarray(Image.open(checkpoint / 'photos' / '0.png'))
    score = open_session(out).run(['score'], {'images': as_input(picture)})[0]
    assert score.shape == (1, 1) and 1 <= score.item() <= 5


@pytest.mark.parametrize('arguments, message', [
    (['a.pt'], 'OUT: a.pt must end in .onnx'), (['a.onnx', '--opset', '9'], '--opset: 9 is not one of 18, 19, 20, 21, 22.'),
    (['a.onnx', '-m', 'ralilite'], '--metric: "ralilite" is not one of rali-lite, rali.*Did you mean "rali-lite"'),
    (['a.onnx', '--pictures', '2'], '--pictures: 2 must be at least 3'),
    (['a.onnx', '--keep-float', '-1'], '--keep-float: -1 must be at least 0'),
    (['a.onnx', '--check', 'nowhere'], 'photographs: nowhere is not a folder'),
    (['a.onnx', '--keep-float', '3'], '--keep-float: is only for --int8. Leave it out.'),
    (['a.onnx', '--calibrate', 'photos'], '--calibrate: is only for --int8. Leave it out.'),
    (['a.onnx', '--int8', '--calibrate', 'nowhere'], 'photographs: nowhere is not a folder'),
    (['a.onnx', '--weights', 'gone.safetensors'], 'gone.safetensors')])
def test_arguments_are_checked_before_any_work(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(['export-onnx', *arguments]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err) and 'Exporting' not in captured.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('arguments', 'expected'), [
    ([], (None, None, None, None, None, None)),
    (['-m', 'rali', '--opset', '18', '--int8', '--keep-float', '2', '--check', 'photos'],
     ('rali', None, 18, Int8Options(keep_float=2), ComparisonOptions('photos', 100), None)),
    (['--weights', 'w', '--int8', '--calibrate', 'c', '--calibration-pictures', '7', '--check', 'bundled', '--pictures', '9'],
     (None, 'w', None, Int8Options('c', 7), ComparisonOptions('bundled', 9), None))])
def test_the_command_hands_its_arguments_on(monkeypatch, capsys, arguments, expected):
    called = []

    def exported(*given):
        called.append(given)
        own = {'megabytes': 1.5, 'sizes': ['1 of 2 x 3'], 'largest_difference': 1e-6, 'allowed': 4e-4}
        int8 = {'int8': {'megabytes': 0.5, 'method': 'static', 'calibration_pictures': 7, 'calibration_photographs': 'c',
                         'float_convolutions': 2, 'convolutions': 9}}
        return Export({'float': Path('a.onnx'), 'int8': Path('a.int8.onnx')}, {'float': own, **int8}, Path('a.json'))
    monkeypatch.setattr('pyiqa_rali.export.run.export_metric', exported)
    assert main(['export-onnx', 'a.onnx', *arguments]) == 0
    assert called == [('a.onnx', *expected)]
    assert capsys.readouterr().out.splitlines() == [
        'a.onnx: 1.5 MB; 1 batches of other sizes give the scores of torch within 1.0e-06 (allowed: 4.0e-04).',
        'a.int8.onnx: 0.5 MB, static quantisation, ranges measured on 7 distorted photographs (c), 2 of 9 convolutions '
        'in float.',
        'What 8 bits cost in accuracy was not measured; --check PHOTOS measures it.', 'The measurements are in a.json.']


@pytest.mark.slow
def test_an_export_from_python_prints_nothing(checkpoint, capfd):
    found = export_metric(checkpoint / 'python.onnx', weights=checkpoint)
    assert capfd.readouterr() == ('', '')
    assert found.models == {'float': checkpoint / 'python.onnx'} and set(found.report) == {'source', 'machine', 'float'}
    assert json.loads(found.report_file.read_text()) == found.report
    with pytest.raises(OptionError, match='--pictures: 2 must be at least 3'):
        ComparisonOptions(pictures=2)


def test_missing_packages_are_named_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr(network, 'NEEDED', ('onnx', 'onnx_that_is_not_there'))
    assert main(['export-onnx', 'a.onnx']) == 2
    assert 'needs onnx_that_is_not_there. Install what is missing: pip install "pyiqa-rali[onnx]".' in capsys.readouterr().err


def test_weights_over_two_gigabytes_are_refused(monkeypatch):
    monkeypatch.setattr(network, 'LARGEST_FILE', 1000)
    with pytest.raises(OptionError, match='an ONNX file holds at most 2 GB'):
        onnx_model.onnx_model(trained({**TIMM, 'name': 'test_efficientnet'}))
