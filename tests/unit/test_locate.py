"""Where weights are looked for, in which order, and what is said when they are nowhere."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pyiqa
import pytest
import torch

from pyiqa_rali.__main__ import main
from pyiqa_rali.core import hub
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.model import default, locate
from pyiqa_rali.model.checkpoint import load_checkpoint, load_metadata, save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.release import conversion
from tests.tiny import tiny_released_folder
from tests.unit.test_rali import random_rali, tensors_of

COMMIT = '0123456789abcdef0123456789abcdef01234567'


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name in ('XDG_CONFIG_HOME', 'TORCH_HOME', 'HF_HOME'):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.delenv(default.VARIABLE, raising=False)
    monkeypatch.delenv(locate.FOLDER_VARIABLE, raising=False)


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    return tiny_released_folder(tmp_path_factory.mktemp('released'))


@pytest.fixture
def export(tmp_path):
    net = random_rali()
    path = tmp_path / 'export' / 'rali.safetensors'
    save_checkpoint(path, tensors_of(net), {**net.metadata, 'name': 'mine'})
    return path


def put_into_hub_cache(folder, root):
    """Lay a released folder out as huggingface_hub keeps a download."""
    repository = root / 'models--ByteDance--Q-Insight'
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(COMMIT)
    shutil.copytree(folder, repository / 'snapshots' / COMMIT / 'RALI')


@pytest.mark.slow
def test_nowhere_to_be_had_fails_at_once_and_says_what_can_be_done():
    """In its own process, as a user meets it; the time is that of the call, without the imports."""
    code = ('import time, pyiqa, torch, huggingface_hub, transformers\n'
            'pyiqa.create_metric("rali-lite")\n'
            'start = time.perf_counter()\n'
            'try:\n    pyiqa.create_metric("rali")\n'
            'except Exception as error:\n    print(type(error).__name__, error)\n'
            'print("SECONDS", time.perf_counter() - start)\n')
    for offline in ('0', '1'):
        result = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'HF_HUB_OFFLINE': offline},
                                capture_output=True, text=True, check=True)
        assert 'CheckpointError ByteDance/Q-Insight:RALI: is not in the cache of the hub' in result.stdout
        for hint in ('rali-lite', 'pretrained_model_path', 'PYIQA_RALI_RELEASED', 'pyiqa_rali use', 'HF_ENDPOINT'):
            assert hint in result.stdout
        assert float(result.stdout.split('SECONDS')[1]) < 2


def test_a_hub_that_never_answers_is_given_up_on():
    """A port that takes connections from nobody: packets are lost, as behind a firewall."""
    start = time.perf_counter()
    assert not hub.can_reach('http://10.255.255.1:81')
    assert time.perf_counter() - start < 1.9


def test_a_hub_that_listens_is_reached(monkeypatch):
    server = HTTPServer(('127.0.0.1', 0), BaseHTTPRequestHandler)
    try:
        assert hub.can_reach(f'http://127.0.0.1:{server.server_port}')
    finally:
        server.server_close()


def test_an_earlier_conversion_is_brought_to_the_range_of_the_labels_without_the_hub(released, tmp_path):
    tensors, metadata = load_checkpoint(conversion.converted(released))
    earlier = conversion.cache_folder() / 'rali_ByteDance%2FQ-Insight%2FRALI@main_1.safetensors'
    save_checkpoint(earlier, tensors, {**metadata, 'mos_range': [1.3, 4.4]})
    path = locate.locate_checkpoint('rali')
    assert path != earlier and load_metadata(path) == {**metadata, 'mos_range': [1, 5]}
    found = load_checkpoint(path)[0]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_hub_cache_is_used(released, tmp_path):
    put_into_hub_cache(released, tmp_path / 'hub')
    path = locate.locate_checkpoint('rali')
    assert load_metadata(path)['name'] == 'RALI (released)'
    assert RALI(pretrained=True).metadata['name'] == 'RALI (released)'


def test_a_local_folder_goes_before_the_cache(released, tmp_path, monkeypatch, export):
    put_into_hub_cache(released, tmp_path / 'hub')
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(export.parent))
    assert locate.locate_checkpoint('rali') == export.parent
    monkeypatch.setenv(locate.FOLDER_VARIABLE, str(tmp_path / 'gone'))
    with pytest.raises(CheckpointError, match=r'PYIQA_RALI_RELEASED: .*gone does not exist. Correct or unset it.'):
        locate.locate_checkpoint('rali')


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    folder = None
    asked: ClassVar[list] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split('?')[0]
        self.asked.append(path)
        files = sorted(item.relative_to(self.folder).as_posix() for item in self.folder.rglob('*') if item.is_file())
        if not path.removeprefix('/api/models').startswith('/ByteDance/Q-Insight'):
            self.send_error(404)
            return None
        if '/tree/' in path:
            return self.answer(json.dumps([{'type': 'file', 'path': f'RALI/{name}', 'oid': name, 'size':
                                            (self.folder / name).stat().st_size} for name in files]).encode())
        if path.startswith('/api/models/'):
            siblings = [{'rfilename': f'RALI/{name}'} for name in files] + [{'rfilename': 'README.md'}]
            return self.answer(json.dumps({'id': 'ByteDance/Q-Insight', 'sha': COMMIT, 'siblings': siblings}).encode())
        name = path.split(f'/resolve/{COMMIT}/RALI/')[-1]
        if name in files:
            return self.answer((self.folder / name).read_bytes(), {'ETag': f'"{name}"', 'X-Repo-Commit': COMMIT})
        self.send_error(404)
        return None

    def answer(self, content, headers=()):
        self.send_response(200)
        for key, value in {'Content-Length': len(content), **dict(headers)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(released):
    Hub.folder, Hub.asked = released, []
    listening = HTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{listening.server_port}'
    listening.shutdown()
    listening.server_close()


@pytest.mark.slow
def test_the_hub_is_last_and_is_asked_once(server, tmp_path):
    """huggingface_hub reads its settings when it is imported: the download runs in its own process."""
    code = ('import sys; from pyiqa_rali.model.locate import locate_checkpoint; print(locate_checkpoint("rali"))\n'
            'print("huggingface_hub" in sys.modules)')
    environment = {**os.environ, 'HF_ENDPOINT': server, 'HF_HUB_OFFLINE': '0', 'HF_HUB_DISABLE_XET': '1'}
    first = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.splitlines()[0])
    assert path.parent == tmp_path / 'torch_home' / 'hub' / 'pyiqa' and load_metadata(path)['name'] == 'RALI (released)'
    assert load_metadata(path)['training']['revision'] == COMMIT
    asked = {name.split('/RALI/')[-1] for name in Hub.asked if '/resolve/' in name}
    assert asked == {'ckpt.pt', 'pca.pkl', 'best/config.json', 'best/preprocessor_config.json'}  # only what it needs
    assert 'ckpt.pt' in first.stderr or '%' in first.stderr  # progress
    assert 'converting the released RALI, once' in first.stderr
    count = len(Hub.asked)
    shutil.rmtree(tmp_path / 'hf_home')
    second = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert second.stdout.splitlines() == [str(path), 'False'] and second.stderr == ''
    assert len(Hub.asked) == count


class FakeHub:
    """Stands for huggingface_hub's download: folders by revision, copied file by file into a cache of the hub's layout."""

    def __init__(self, folder, cache):
        self.folder, self.cache, self.calls, self.fetched = folder, cache, [], set()

    def __call__(self, repository, revision=None, allow_patterns=None, local_files_only=False, etag_timeout=None,
                 endpoint=None):
        from huggingface_hub.errors import LocalEntryNotFoundError
        commit = {None: COMMIT, 'main': COMMIT, 'v1': COMMIT[::-1]}.get(revision, revision)
        snapshot = self.cache / 'snapshots' / commit
        if local_files_only:
            if snapshot.exists():
                return str(snapshot)
            raise LocalEntryNotFoundError('not here')
        self.calls.append(revision)
        for path in self.folder.rglob('*'):
            name = f'RALI/{path.relative_to(self.folder).as_posix()}'
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                self.fetched.add(name.removeprefix('RALI/'))
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / name)
        return str(snapshot)


@pytest.fixture
def fake_hub(released, tmp_path, monkeypatch):
    fake = FakeHub(shutil.copytree(released, tmp_path / 'repository'), tmp_path / 'fake_cache')
    monkeypatch.setattr('huggingface_hub.snapshot_download', fake)
    monkeypatch.setattr(hub, 'can_reach', lambda endpoint: True)
    monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    return fake


def drop(folder, *prefixes):
    state = torch.load(folder / 'ckpt.pt', weights_only=True)['state_dict']
    kept = {name: each for name, each in state.items() if not name.startswith(prefixes)}
    torch.save({'state_dict': kept}, folder / 'ckpt.pt')


@pytest.mark.parametrize(('dropped', 'also'), [
    (('nothing',), set()), (('clip.',), {'best/model.safetensors'}), (('scorer.proto',), {'basis.npz'}),
    (('clip.', 'scorer.proto'), {'best/model.safetensors', 'basis.npz'})])
def test_only_what_is_needed_is_downloaded(fake_hub, dropped, also):
    drop(fake_hub.folder, *dropped)
    RALI()
    assert fake_hub.fetched == {'ckpt.pt', 'pca.pkl', 'best/config.json', 'best/preprocessor_config.json', *also}
    calls = len(fake_hub.calls)
    shutil.rmtree(fake_hub.cache)
    RALI()
    assert len(fake_hub.calls) == calls


def test_a_download_that_was_cut_short_is_gone_on_with(fake_hub):
    part = fake_hub.cache / 'snapshots' / COMMIT / 'RALI'
    part.mkdir(parents=True)
    shutil.copy(fake_hub.folder / 'pca.pkl', part / 'pca.pkl')
    assert load_metadata(locate.locate_checkpoint('rali'))['name'] == 'RALI (released)'


def test_revisions_are_kept_apart_and_written_down(fake_hub, tmp_path, capsys):
    paths = {revision: locate.locate_checkpoint('rali', revision) for revision in (None, 'v1', 'f' * 40)}
    assert len(set(paths.values())) == 3 and fake_hub.calls == [None, 'v1', 'f' * 40]
    found = {revision: load_metadata(path)['training']['revision'] for revision, path in paths.items()}
    assert found == {None: COMMIT, 'v1': COMMIT[::-1], 'f' * 40: 'f' * 40}
    assert pyiqa.create_metric('rali', revision='v1', device='cpu').net.metadata['training']['revision'] == COMMIT[::-1]
    assert main(['convert', 'rali', str(tmp_path / 'out.safetensors'), '--revision', 'v1']) == 0
    assert load_metadata(tmp_path / 'out.safetensors')['training'] == load_metadata(paths['v1'])['training']
    assert main(['info', str(tmp_path / 'out.safetensors')]) == 0 and COMMIT[::-1] in capsys.readouterr().out


def test_a_revision_means_the_hub(fake_hub, export, released, tmp_path, capsys):
    assert main(['use', str(export)]) == 0
    assert RALI(revision='v1').metadata['name'] == 'RALI (released)'
    for source in (str(export), str(released), 'rali-lite'):
        with pytest.raises(OptionError, match='revision: v1 is only for a repository on the hub'):
            RALI(pretrained_model_path=source, revision='v1')
    assert main(['convert', str(released), str(tmp_path / 'out.safetensors'), '--revision', 'v1']) == 2
    assert '--revision: v1 is only for a repository on the hub' in capsys.readouterr().err


def test_an_export_on_the_hub_needs_no_conversion(fake_hub, export):
    shutil.rmtree(fake_hub.folder)
    fake_hub.folder.mkdir()
    shutil.copy(export, fake_hub.folder / 'rali.safetensors')
    assert RALI(pretrained_model_path='somebody/something:RALI').metadata['name'] == 'mine'
    (fake_hub.folder / 'rali.safetensors').unlink()
    shutil.rmtree(fake_hub.cache)
    (fake_hub.folder / 'README.md').write_text('nothing')
    with pytest.raises(CheckpointError, match=r'holds neither rali.safetensors nor a released RALI folder'):
        RALI(pretrained_model_path='somebody/other:RALI')


@pytest.mark.slow
def test_a_conversion_that_was_killed_leaves_nothing_wrong(released):
    """Killed at several moments of the writing: the next start converts anew, and gives the right scores."""
    code = ('import os, signal, sys, safetensors.torch\n'
            'def cut(tensors, path, metadata):\n'
            '    save(tensors, path, metadata=metadata)\n'
            '    os.truncate(path, os.path.getsize(path) // 2)\n'
            '    os.kill(os.getpid(), signal.SIGKILL)\n'
            'save, safetensors.torch.save_file = safetensors.torch.save_file, cut\n'
            'from pyiqa_rali.model.rali import RALI\n'
            f'RALI(pretrained_model_path={str(released)!r})\n')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == -9, result.stderr
    kept = conversion.cache_folder()
    part, = kept.glob('.*.part')
    assert not list(kept.glob('rali_*.safetensors'))
    os.utime(part, (0, 0))
    images = torch.rand(1, 3, 40, 50)
    whole = RALI(pretrained_model_path=released)
    assert not part.exists() and len(list(kept.glob('rali_*.safetensors'))) == 1
    with torch.no_grad():
        assert torch.equal(RALI(pretrained_model_path=released)(images), whole(images))


def test_a_changed_folder_is_converted_anew(released, tmp_path):
    folder = shutil.copytree(released, tmp_path / 'copy')
    first = RALI(pretrained_model_path=folder)
    values = json.loads((folder / 'best' / 'preprocessor_config.json').read_text())
    (folder / 'best' / 'preprocessor_config.json').write_text(json.dumps({**values, 'image_mean': [0.1, 0.2, 0.3]}))
    assert RALI(pretrained_model_path=folder).metadata != first.metadata


def test_a_cache_that_cannot_be_written_is_named(released, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(CheckpointError, match=r'cannot be written .*TORCH_HOME names another one, and .*convert SOURCE OUT'):
        RALI(pretrained_model_path=released)


@pytest.mark.slow
def test_a_repository_that_the_hub_lacks(server):
    code = ('from pyiqa_rali.model.locate import locate_checkpoint\n'
            'try:\n    locate_checkpoint("nobody/nothing:there")\n'
            'except Exception as error:\n    print(type(error).__name__, error)')
    environment = {**os.environ, 'HF_ENDPOINT': server, 'HF_HUB_OFFLINE': '0', 'HF_HUB_DISABLE_XET': '1'}
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert result.stdout.startswith('CheckpointError nobody/nothing:there'), result.stdout + result.stderr


@pytest.mark.parametrize('source', ['./gone', '/gone/file', 'gone.safetensors', 'weights.pth', 'no name', '~/gone'])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(source, monkeypatch):
    monkeypatch.setattr(conversion, 'from_hub', lambda *args: pytest.fail('asked'))
    with pytest.raises(CheckpointError, match='no such file or folder'):
        locate.locate_checkpoint(source)


def test_a_users_default_stands_for_rali_and_says_so(export, capsys):
    assert main(['use', '--show']) == 0 and 'no default is set' in capsys.readouterr().out
    assert main(['use', str(export.parent)]) == 0
    assert f'rali is now {export} (mine)' in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r'the weights are your default, .*not the released checkpoint'):
        net = RALI()
    assert net.metadata['name'] == 'mine'
    assert main(['use', '--show']) == 0 and str(export) in capsys.readouterr().out
    assert main(['use', '--reset']) == 0 and main(['use', '--reset']) == 0
    with pytest.raises(CheckpointError, match='is not in the cache of the hub'):
        RALI()


def test_the_environment_variable_goes_before_the_choice(export, tmp_path, monkeypatch):
    other = tmp_path / 'other.safetensors'
    net = random_rali(seed=1)
    save_checkpoint(other, tensors_of(net), {**net.metadata, 'name': 'other'})
    assert main(['use', str(export)]) == 0
    monkeypatch.setenv(default.VARIABLE, str(other))
    with pytest.warns(UserWarning, match=r'other.safetensors'):
        assert RALI().metadata['name'] == 'other'
    monkeypatch.setenv(default.VARIABLE, str(tmp_path / 'gone'))
    with pytest.raises(CheckpointError, match=r'PYIQA_RALI_DEFAULT: .*gone does not exist'):
        RALI()


def test_a_default_that_is_gone_or_changed_is_no_default(export, capsys):
    assert main(['use', str(export)]) == 0
    content = export.read_bytes()
    export.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match='has changed since it was made the default'):
        RALI()
    export.unlink()
    with pytest.raises(CheckpointError, match='is missing. Choose again'):
        RALI()
    default.config_file().write_text('{')
    with pytest.raises(CheckpointError, match=r'default.json: cannot be read'):
        RALI()


def test_use_refuses_what_is_no_export(tmp_path, capsys):
    (tmp_path / 'other.safetensors').write_bytes(b'nothing')
    assert main(['use', str(tmp_path / 'other.safetensors')]) == 2
    assert main(['use']) == 2 and 'give either a FILE, --show or --reset' in capsys.readouterr().err
    assert not default.config_file().exists()


def test_a_path_warns_of_nothing(export):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        RALI(pretrained_model_path=export)


def test_convert_writes_what_the_folder_scores(released, tmp_path, capsys):
    out = tmp_path / 'converted.safetensors'
    assert main(['convert', str(released), str(out)]) == 0
    images = torch.rand(2, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(RALI(pretrained_model_path=out)(images), RALI(pretrained_model_path=released)(images))
    assert main(['convert', str(tmp_path), str(out)]) == 2
    assert 'is not a released RALI folder; it lacks best/config.json, ckpt.pt, pca.pkl' in capsys.readouterr().err


def test_a_download_without_the_processor_is_gone_on_with(fake_hub):
    part = fake_hub.cache / 'snapshots' / COMMIT / 'RALI'
    shutil.copytree(fake_hub.folder, part)
    (part / 'best' / 'preprocessor_config.json').unlink()
    assert locate.locate_checkpoint('owner/name:RALI').is_file() and fake_hub.fetched


def test_a_name_that_is_no_repository_is_told():
    with pytest.raises(CheckpointError, match='foo/bar--baz: is not the name of a repository'):
        locate.locate_checkpoint('foo/bar--baz')


def test_a_transport_that_breaks_is_told(monkeypatch):
    def breaks(*args, local_files_only=False, **options):
        from huggingface_hub.errors import LocalEntryNotFoundError
        raise LocalEntryNotFoundError('no') if local_files_only else RuntimeError('peer closed the connection')
    monkeypatch.setattr('huggingface_hub.snapshot_download', breaks)
    monkeypatch.setattr(hub, 'can_reach', lambda endpoint: True)
    monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    with pytest.raises(CheckpointError, match='cannot be downloaded .*peer closed the connection.*What can be done'):
        locate.locate_checkpoint('owner/name')


def test_a_path_goes_before_a_name_where_a_path_is_asked_for(export, tmp_path, monkeypatch):
    shutil.copytree(export.parent, tmp_path / 'here' / 'rali')
    monkeypatch.chdir(tmp_path / 'here')
    assert locate.locate_checkpoint('rali', may_be_name=False).name == 'rali'
    with pytest.raises(CheckpointError, match='cannot be reached'):
        locate.locate_checkpoint('rali')


@pytest.mark.parametrize('name', ['out.safetensors', 'out.pth'])
def test_a_conversion_can_be_read_by_its_extension(released, tmp_path, name):
    assert main(['convert', str(released), str(tmp_path / name)]) == 0
    assert load_metadata(tmp_path / name)['licence'] == 'Apache-2.0'


def test_clients_of_others_do_not_wait_for_a_hub_out_of_reach(monkeypatch):
    from huggingface_hub import hf_hub_download, is_offline_mode
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    asked = []
    monkeypatch.setattr(hub, 'can_reach', lambda endpoint: asked.append(endpoint))
    with hub.cache_alone_when_out_of_reach(), pytest.raises(LocalEntryNotFoundError) as error:
        hf_hub_download('owner/name', 'file')
    assert asked == ['https://huggingface.co'] and isinstance(error.value.__cause__, OfflineModeIsEnabled)
    assert not is_offline_mode()
