"""Pickles from elsewhere: real ones are read, hostile ones run nothing."""

import gzip
import io
import os
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, IncrementalPCA

from pyiqa_rali.checkpoints import pickles
from pyiqa_rali.checkpoints.pickles import read_joblib, read_npz, read_torch_tensors
from pyiqa_rali.errors import CheckpointError

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


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
@pytest.mark.parametrize('compress', [0, 3])
def test_a_truncated_file_is_refused(tmp_path, share, compress):
    path = tmp_path / 'pca.pkl'
    joblib.dump(PCA(n_components=4).fit(FEATURES), path, compress=compress)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r'pca.pkl: cannot be read'):
        read_joblib(path)


def test_an_array_larger_than_the_file_is_refused(tmp_path):
    path = tmp_path / 'pca.pkl'
    joblib.dump(PCA(n_components=4).fit(FEATURES), path)
    content = path.read_bytes()
    header = content.replace(b'shape\x94K\x0c\x85', b'shape\x94K\xff\x85', 1)
    assert header != content
    path.write_bytes(header)
    with pytest.raises(CheckpointError, match=r'pca.pkl'):
        read_joblib(path)


def test_a_compressed_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, 'LARGEST', 100_000)
    path = tmp_path / 'pca.pkl'
    path.write_bytes(gzip.compress(b'\0' * 50_000_000))
    with pytest.raises(CheckpointError, match=r'pca.pkl.*more than 100000 bytes'):
        read_joblib(path)


def test_arrays_of_objects_are_refused(tmp_path):
    estimator = PCA(n_components=2).fit(FEATURES)
    estimator.mean_ = np.array([Call(os.system, 'true')], dtype=object)
    joblib.dump(estimator, tmp_path / 'pca.pkl')
    with pytest.raises(CheckpointError, match='pca.pkl'):
        read_joblib(tmp_path / 'pca.pkl')
    np.savez(tmp_path / 'basis.npz', vectors=np.array([Call(os.system, 'true')], dtype=object))
    with pytest.raises(CheckpointError, match='basis.npz'):
        read_npz(tmp_path / 'basis.npz')


@pytest.mark.parametrize('content', [b'', b'no pickle', b'\x80\x04.', b'PK\x03\x04', b'\x80\x04K\x05.'])
@pytest.mark.parametrize('reader', [read_joblib, read_torch_tensors, read_npz])
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
