"""Pickles from elsewhere: real ones are read, hostile ones run nothing."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from sklearn.decomposition import PCA, IncrementalPCA

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.release import pickles
from pyiqa_rali.model.release.pickles import read_joblib, read_npz, read_torch_tensors
from tests.data.write_pca_files import features

FEATURES = np.random.default_rng(0).normal(size=(50, 12))


@pytest.mark.parametrize('estimator', [PCA(n_components=4), IncrementalPCA(n_components=4, batch_size=20)])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('compress', [0, 3, ('gzip', 3), ('bz2', 3), ('lzma', 3), ('xz', 3)])
def test_what_joblib_writes_is_read(tmp_path, estimator, dtype, compress):
    estimator.fit(np.asfortranarray(FEATURES.astype(dtype)))
    joblib.dump(estimator, tmp_path / 'pca.pkl', compress=compress)
    found = read_joblib(tmp_path / 'pca.pkl')
    for name in ('mean_', 'components_', 'explained_variance_', *(['var_'] if hasattr(estimator, 'var_') else [])):
        assert np.array_equal(found[name], getattr(estimator, name)) and found[name].dtype == getattr(estimator, name).dtype


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    estimator = PCA(n_components=4).fit(FEATURES)
    (tmp_path / 'pca.pkl').write_bytes(pickle.dumps(estimator, protocol=protocol))
    assert np.array_equal(read_joblib(tmp_path / 'pca.pkl')['mean_'], estimator.mean_)


OLD_FILES = sorted((Path(__file__).parents[1] / 'data' / 'pca').glob('*.pkl'))


@pytest.mark.parametrize('path', OLD_FILES, ids=lambda path: path.stem)
def test_files_of_other_versions(path):
    """Written by data/write_pca_files.py under the versions that the names tell."""
    expected = features().mean(axis=0)
    found = read_joblib(path)
    assert found['mean_'].dtype == (np.float32 if path.name.startswith('pca_float32') else np.float64)
    assert np.allclose(found['mean_'], expected, atol=1e-6)
    reference = PCA(n_components=3).fit(features()).components_
    assert found['components_'].shape == (3, 6)
    if path.name.startswith('pca'):  # an incremental PCA's components are near to, not equal to, a PCA's
        assert np.allclose(np.abs(found['components_']), np.abs(reference), atol=1e-4)
    else:
        assert np.allclose(found['var_'], features().var(axis=0), atol=1e-5)


def test_there_are_files_of_several_versions():
    assert len({path.stem.split('sklearn')[1].split('_compress')[0] for path in OLD_FILES}) >= 4


class Call:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(target):
    return {'os.system': Call(os.system, f'touch {target}'),
            'eval': Call(eval, f'open({str(target)!r}, "w")'),
            'exec': Call(exec, f'open({str(target)!r}, "w")'),
            'getattr': Call(getattr, 'text', 'upper'),
            'open': Call(open, str(target), 'w'),
            'numpy.load': Call(np.load, str(target)),
            'joblib.load': Call(joblib.load, str(target)),
            'sklearn': Call(__import__, 'sklearn')}


@pytest.mark.parametrize('name', list(hostile('')))
@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('reader', [read_joblib, read_torch_tensors])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, name, nested, reader):
    target = tmp_path / 'it_ran'
    payload = hostile(target)[name]
    path = tmp_path / 'file.pkl'
    if reader is read_torch_tensors:
        torch.save({'state_dict': {'weight': payload}} if nested else payload, path)
    else:
        path.write_bytes(pickle.dumps({'mean_': [payload]} if nested else payload))
    with pytest.raises(CheckpointError, match=r'file.pkl: cannot be read as .*not to be trusted'):
        reader(path)
    assert not target.exists()


def test_classes_of_scikit_learn_stay_inert(tmp_path):
    """A reduce that names a class of the inert packages calls nothing of them."""
    path = tmp_path / 'file.pkl'
    payload = b'\x80\x02csklearn.utils._testing\nset_random_state\n(U\x04harmtR}U\x05mean_K\x01sb.'
    path.write_bytes(payload)
    assert read_joblib(path) == {'mean_': 1}


def test_state_cannot_replace_our_own_methods(tmp_path):
    """A state that carries `__setstate__` or a class attribute stays a plain entry."""
    path = tmp_path / 'file.pkl'
    path.write_bytes(b'\x80\x02csklearn.decomposition\nPCA\n)R}U\x0c__setstate__K\x01sb.')
    assert read_joblib(path) == {'__setstate__': 1}
    assert callable(pickles.Inert.__setstate__)


@pytest.mark.parametrize('compress', [0, 3, ('gzip', 3), ('bz2', 3), ('lzma', 3), ('xz', 3)])
def test_a_file_cut_at_any_byte_is_refused(tmp_path, compress):
    path = tmp_path / 'pca.pkl'
    joblib.dump(PCA(n_components=2).fit(FEATURES[:, :4]), path, compress=compress)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r'pca.pkl: (cannot be read|holds a)'):
            read_joblib(path)


def test_a_file_with_any_byte_changed_is_read_or_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'system', lambda command: pytest.fail('it ran'))
    path = tmp_path / 'pca.pkl'
    joblib.dump(PCA(n_components=2).fit(FEATURES[:, :4]), path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1:])
        with contextlib.suppress(CheckpointError):
            assert isinstance(read_joblib(path), dict)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=strategies.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path, content):
    path = tmp_path / 'any.pkl'
    path.write_bytes(b'\x80\x04' + content + b'.')
    with contextlib.suppress(CheckpointError):
        read_joblib(path)


@pytest.mark.parametrize('length', ['every', 'torch'])
def test_a_torch_file_or_npz_cut_anywhere_is_refused(tmp_path, length):
    path = tmp_path / 'file'
    if length == 'torch':
        torch.save({'state_dict': {'a': torch.arange(3.0)}}, path)
        reader = read_torch_tensors
    else:
        with open(path, 'wb') as stream:
            np.savez(stream, vectors=np.zeros((2, 2)))
        reader = lambda path: read_npz(path, ['vectors'])  # noqa: E731
    content = path.read_bytes()
    for end in range(0, len(content), 1 if length == 'every' else 7):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match='file'):
            reader(path)


def test_an_array_larger_than_the_file_is_refused(tmp_path):
    path = tmp_path / 'pca.pkl'
    joblib.dump(PCA(n_components=4).fit(FEATURES), path)
    content = path.read_bytes()
    header = content.replace(b'shape\x94K\x0c\x85', b'shape\x94K\xff\x85', 1)
    assert header != content
    path.write_bytes(header)
    with pytest.raises(CheckpointError, match=r'pca.pkl'):
        read_joblib(path)


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, zlib.compress, lzma.compress,
                                  lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE)],
                         ids=['gzip', 'bz2', 'zlib', 'xz', 'lzma'])
def test_a_compressed_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(pickles, 'LARGEST', 100_000)
    path = tmp_path / 'pca.pkl'
    path.write_bytes(pack(b'\0' * 20_000_000))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r'pca.pkl.*more than 100000 bytes'):
        read_joblib(path)
    assert tracemalloc.get_traced_memory()[1] < 12_000_000  # lzma reserves eight million for its dictionary
    tracemalloc.stop()


def test_bombs_of_zip_files_are_refused(tmp_path, monkeypatch):
    torch.save({'a': torch.zeros(1000)}, tmp_path / 'a.pt')
    with zipfile.ZipFile(tmp_path / 'a.pt') as source, zipfile.ZipFile(tmp_path / 'b.pt', 'w', zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r'b.pt.*is compressed, which torch never writes'):
        read_torch_tensors(tmp_path / 'b.pt')
    np.savez_compressed(tmp_path / 'basis.npz', vectors=np.zeros(100_000))
    monkeypatch.setattr(pickles, 'LARGEST', 100_000)
    with pytest.raises(CheckpointError, match=r'basis.npz.*more than 100000 bytes'):
        read_npz(tmp_path / 'basis.npz', ['vectors'])


def array_header(shape):
    """A joblib file whose one array claims a shape that the file does not hold."""
    wrapper = joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, shape, 'C', np.dtype('f8'))
    return pickle.dumps(wrapper, protocol=4)


@pytest.mark.parametrize('shape', [(10 ** 6, 10 ** 6), (2 ** 62,), (2 ** 40, 2 ** 40), (-1,), (1.5,), 'text', (10 ** 30,)])
def test_shapes_that_the_file_does_not_hold_are_refused(tmp_path, shape):
    (tmp_path / 'pca.pkl').write_bytes(array_header(shape))
    with pytest.raises(CheckpointError, match=r'pca.pkl.*an array (of \d+ bytes, more than|whose shape is not)'):
        read_joblib(tmp_path / 'pca.pkl')
    header = str({'descr': '<f8', 'fortran_order': False, 'shape': shape}).encode()
    member = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header
    with zipfile.ZipFile(tmp_path / 'basis.npz', 'w') as archive:
        archive.writestr('vectors.npy', member)
    with pytest.raises(CheckpointError, match=r'basis.npz: cannot be read'):
        read_npz(tmp_path / 'basis.npz', ['vectors'])


def test_tensors_that_claim_more_than_is_stored_are_refused(tmp_path):
    torch.save({'wide': torch.zeros(1).expand(10 ** 9, 10 ** 9)}, tmp_path / 'a.pt')
    with pytest.raises(CheckpointError, match=r'a.pt: wide is not an ordinary tensor'):
        read_torch_tensors(tmp_path / 'a.pt')
    torch.save({'thin': torch.eye(3).to_sparse()}, tmp_path / 'b.pt')
    with pytest.raises(CheckpointError, match=r'b.pt: thin is not an ordinary tensor'):
        read_torch_tensors(tmp_path / 'b.pt')


TRICKS = {
    'a dotted name that leads elsewhere': (b'\x80\x04\x8c\x07sklearn\x8c\x09os.system\x93\x8c\x04true\x85R.', None),
    'a module whose name begins like a known one': (b'csklearn_evil\nrun\n(tR.', 'sklearn_evil.run'),
    'a name put together on the stack': (b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.', 'posix.system'),
    'the old INST step': (b"(S'true'\nios\nsystem\n.", 'os.system'),
    'an extension code': (b'\x80\x02\x82\x01.', 'a step that no fitted estimator needs'),
    'a persistent id': (b'\x80\x02K\x01Q.', 'a step that no fitted estimator needs'),
    'a state for a function': (b"ccopyreg\n_reconstructor\n}S'x'\nK\x01sb.", 'sets the state of an object that has none'),
    'a class of numpy that allocates': (b'cnumpy\nndarray\n(L9999999999L\ntR.', None),
    'a memory type of nested types': (b"cnumpy\ndtype\n((lS'f8'\natR.", 'an array of a list'),
    "numpy's own loader": (b"cnumpy\nload\n(S'x'\ntR.", 'numpy.load'),
    'text made into bytes over and over': (
        b'\x80\x02(X\x00\x00\x01\x00' + b'x' * 65536 + b'q\x00' + b'c_codecs\nencode\nh\x00\x85R' * 20000 + b't.',
        'ever more bytes'),
    'keys that take for ever to hash': (b'\x80\x02}' + b'K\x01' + b'2\x86' * 60 + b'K\x01s.', 'keys are not texts'),
}


@pytest.mark.parametrize('name', TRICKS)
def test_tricks_are_refused_or_come_to_nothing(tmp_path, name, monkeypatch):
    monkeypatch.setattr(os, 'system', lambda command: pytest.fail('it ran'))
    content, message = TRICKS[name]
    path = tmp_path / 'file.pkl'
    path.write_bytes(content)
    start = time.perf_counter()
    if message is None:
        assert isinstance(read_joblib(path), dict)
    else:
        with pytest.raises(CheckpointError, match=message):
            read_joblib(path)
    assert time.perf_counter() - start < 5


def test_deep_nesting_breaks_nothing(tmp_path):
    path = tmp_path / 'file.pkl'
    path.write_bytes(b'\x80\x02' + b'(' * 50_000 + b'l' * 50_000 + b'.')
    with pytest.raises(CheckpointError, match=r'file.pkl: holds a list'):
        read_joblib(path)
    path.write_bytes(b'\x80\x02' + b']' * 50_000 + b'a' * 49_999 + b'.')
    with pytest.raises(CheckpointError, match=r'file.pkl: holds a list'):
        read_joblib(path)


def test_arrays_of_objects_are_refused(tmp_path):
    estimator = PCA(n_components=2).fit(FEATURES)
    estimator.mean_ = np.array([Call(os.system, 'true')], dtype=object)
    joblib.dump(estimator, tmp_path / 'pca.pkl')
    with pytest.raises(CheckpointError, match='pca.pkl'):
        read_joblib(tmp_path / 'pca.pkl')
    np.savez(tmp_path / 'basis.npz', vectors=np.array([Call(os.system, 'true')], dtype=object))
    with pytest.raises(CheckpointError, match='basis.npz'):
        read_npz(tmp_path / 'basis.npz', ['vectors'])


@pytest.mark.parametrize('content', [b'', b'no pickle', b'\x80\x04.', b'PK\x03\x04', b'\x80\x04K\x05.'])
@pytest.mark.parametrize('reader', [read_joblib, read_torch_tensors, lambda path: read_npz(path, ['vectors'])])
def test_foreign_files_are_refused_by_name(tmp_path, content, reader):
    (tmp_path / 'file.bin').write_bytes(content)
    with pytest.raises(CheckpointError, match='file.bin'):
        reader(tmp_path / 'file.bin')


def test_tensors_are_read(tmp_path):
    stream = io.BytesIO()
    torch.save({'state_dict': {'a': torch.arange(3.0)}}, stream)
    (tmp_path / 'a.pt').write_bytes(stream.getvalue())
    assert torch.equal(read_torch_tensors(tmp_path / 'a.pt')['a'], torch.arange(3.0))
    torch.save({'b': torch.ones(2)}, tmp_path / 'b.pt')
    assert torch.equal(read_torch_tensors(tmp_path / 'b.pt')['b'], torch.ones(2))
    torch.save({'state_dict': {'a': 3}}, tmp_path / 'c.pt')
    with pytest.raises(CheckpointError, match=r'c.pt: holds no state dict of tensors'):
        read_torch_tensors(tmp_path / 'c.pt')
