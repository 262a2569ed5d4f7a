import json
import re
from pathlib import Path

import pytest
import torch

from pyiqa_rali import RALI, ReasoningScorer
from pyiqa_rali.__main__ import main
from pyiqa_rali.core import hub
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.model.checkpoint import load_checkpoint, load_metadata, save_checkpoint
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.report.push import prepare_upload
from tests.stand_ins import Hub, busy, running

REPOSITORY, TOKEN = 'me/rali-tiny', 'hf_writer'


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A stand-in of the hub, with its client in a folder of its own, online, and with the writer's token."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http
    with running(Hub(REPOSITORY, TOKEN)) as made:
        for name, value in (('HF_HUB_OFFLINE', False), ('HF_HUB_DISABLE_XET', True), ('ENDPOINT', made.address),
                            ('HF_HUB_CACHE', str(tmp_path / 'cache')), ('HUGGINGFACE_CO_URL_TEMPLATE',
                             made.address + '/{repo_id}/resolve/{revision}/{filename}')):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv('HF_HUB_OFFLINE')
        monkeypatch.setenv('HF_ENDPOINT', made.address)
        monkeypatch.setenv('HF_TOKEN', TOKEN)
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
        monkeypatch.setattr(_http.time, 'sleep', lambda seconds: None)
        assert huggingface_hub.get_token() == TOKEN
        yield made


def embedded():
    return locate_checkpoint('rali-lite')


@pytest.fixture
def pushed(server, capsys):
    assert main(['push', str(embedded()), REPOSITORY]) == 0
    return server, capsys.readouterr().out


def test_what_was_pushed_can_be_loaded_by_name_and_commit(pushed):
    server, told = pushed
    commit = re.search(r'pinned: revision=([0-9a-f]{40})$', told, re.M)[1]
    assert server.made and f'{server.address}/{REPOSITORY}/commit/{commit}' in told
    assert sorted(server.commits[commit]) == ['README.md', 'rali.safetensors']
    assert server.commits[commit]['rali.safetensors'] == embedded().read_bytes()
    own = weights_digest(RALI.from_pretrained('rali-lite'))
    assert weights_digest(RALI.from_pretrained(REPOSITORY)) == own
    assert weights_digest(RALI.from_pretrained(REPOSITORY, revision=commit)) == own
    with pytest.raises(CheckpointError, match='revision 0{40}'):
        RALI.from_pretrained(REPOSITORY, revision='0' * 40)


def test_a_pinned_commit_stays_when_the_branch_moves_on(pushed, tmp_path):
    server, told = pushed
    first = re.search(r'revision=([0-9a-f]{40})', told)[1]
    tensors, metadata = load_checkpoint(embedded())
    save_checkpoint(tmp_path / 'rali.safetensors', {**tensors, 'scorer.basis_scores': tensors['scorer.basis_scores'] + 0.5},
                    metadata)
    assert main(['push', str(tmp_path), REPOSITORY, '--message', 'second']) == 0
    assert len(server.commits) == 2
    scores = [RALI.from_pretrained(REPOSITORY, revision=each).scorer.basis_scores.mean() for each in (first, 'main')]
    assert (scores[1] - scores[0]).item() == pytest.approx(0.5, abs=1e-2)


def test_the_example_of_the_card_runs(pushed):
    server, _ = pushed
    card = server.commits[server.branches['main']]['README.md'].decode()
    code = re.search(r'```python\n(.*?)```', card, re.S)[1]
    told = []
    exec(compile(code, 'card', 'exec'), {'print': lambda *values: told.append(values)})
    score, score_range, lower_better = told[0]
    assert 0.5 < score < 5.5 and (score_range, lower_better) == (RALI.from_pretrained('rali-lite').score_range, False)


def test_the_card_says_what_is_known(tmp_path):
    card, metadata = prepare_upload(embedded(), REPOSITORY).card, load_metadata(embedded())
    head = card.split('---')[1]
    assert 'license: apache-2.0' in head and 'library_name: pyiqa-rali' in head
    low, high = RALI.from_pretrained('rali-lite').score_range.split(', ')
    for told in (f'# {metadata["name"]}', metadata['image_encoder']['name'], f'From {low} to {high}; higher is better',
                 str(metadata['training_images']['count']), 'No evaluation was given', 'is not stated here'):
        assert told in card, told


def results(folder, digest):
    folder.mkdir()
    ends = (('', .9), ('_low', .85), ('_high', .95))
    row = {'dataset': 'koniq', 'metric': 'mine', 'images': 10, 'missing': 1,
           **{f'{name}{end}': value for name in ('plcc', 'srcc', 'krcc') for end, value in ends}}
    metrics = {'mine': {'weights_sha256': digest}, 'piqe': {'weights_sha256': ''}}
    found = {'name': 'koniq', 'confidence': .95, 'metrics': metrics,
             'results': [row, {**row, 'metric': 'piqe', 'srcc': .1}]}
    (folder / 'results.json').write_text(json.dumps(found))
    (folder / 'options.yml').write_text('manual_seed: 7\n')
    return folder


def test_results_are_those_of_exactly_these_weights(tmp_path):
    own = weights_digest(RALI.from_pretrained('rali-lite'))
    card = prepare_upload(embedded(), REPOSITORY, results=[results(tmp_path / 'own', own)], limits='Not for X-rays.').card
    assert '`pyiqa-rali evaluate -opt koniq.yml` (95% bootstrap intervals, seed 7' in card
    assert '0.900 [0.850, 0.950]' in card and '0.100' not in card and 'Not for X-rays.' in card
    with pytest.raises(DataError, match='is about other weights .mine, piqe.'):
        prepare_upload(embedded(), REPOSITORY, results=[results(tmp_path / 'other', '0' * 64)])
    with pytest.raises(DataError, match='has no results.json'):
        prepare_upload(embedded(), REPOSITORY, results=[tmp_path])


def test_a_card_can_be_looked_at_first(server, tmp_path):
    assert main(['push', str(embedded()), REPOSITORY, '--card', str(tmp_path / 'README.md')]) == 0
    assert f'# {load_metadata(embedded())["name"]}' in (tmp_path / 'README.md').read_text() and not server.asked


def test_pickles_become_safetensors(tmp_path):
    from pyiqa_rali.model.checkpoint import save_pth
    tensors, metadata = load_checkpoint(embedded())
    save_pth(tmp_path / 'rali.pth', tensors, {name: value for name, value in metadata.items() if name != 'licence'})
    for licence in (None, 'unspecified'):
        with pytest.raises(OptionError, match='--licence: the checkpoint does not name one'):
            prepare_upload(tmp_path / 'rali.pth', REPOSITORY, licence=licence)
    upload = prepare_upload(tmp_path / 'rali.pth', REPOSITORY, licence='MIT')
    assert 'license: mit' in upload.card
    (tmp_path / 'again.safetensors').write_bytes(upload.files['rali.safetensors'])
    again, _ = load_checkpoint(tmp_path / 'again.safetensors')
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(('token', 'message'), [('hf_wrong_and_secret', 'the hub refuses the token'),
                                                (None, 'there is no token for the hub')])
def test_refused_tokens_are_told_and_not_shown(server, monkeypatch, capsys, token, message):
    monkeypatch.delenv('HF_TOKEN') if token is None else monkeypatch.setenv('HF_TOKEN', token)
    assert main(['push', str(embedded()), REPOSITORY]) == 2
    told = capsys.readouterr().err
    assert message in told and 'hf_wrong_and_secret' not in told and not server.commits and not server.made


def broken(request):
    """A connection that ends while the file is sent."""
    request.rfile.read(1000)
    request.connection.close()
    request.close_connection = True


@pytest.mark.parametrize(('begin', 'fault', 'message'), [
    ('PUT /lfs/', broken, 'the repository has all of them or none'),
    (f'POST /{REPOSITORY}.git', busy(500), 'the repository has all of them or none'),
    (f'POST /api/models/{REPOSITORY}/commit', busy(403), 'the token may not write there'),
    ('POST /api/repos/create', busy(403), 'Nothing was changed')])
def test_a_push_that_breaks_off_leaves_the_repository_as_it_was(server, capsys, begin, fault, message):
    server.faults[begin] = [fault] * 20
    assert main(['push', str(embedded()), REPOSITORY]) == 2
    told = capsys.readouterr().err
    assert message in told and TOKEN not in told and not server.commits
    server.faults.clear()
    sent = [path for path in server.asked if path.startswith('/lfs/')]
    assert main(['push', str(embedded()), REPOSITORY]) == 0 and len(server.commits) == 1
    if 'commit' in begin:  # what had arrived is not sent again
        assert sent and sum(server.asked[path] for path in sent) == len(sent)


def test_an_upload_that_is_cut_once_goes_through(server):
    server.faults['PUT /lfs/'] = [broken]
    assert main(['push', str(embedded()), REPOSITORY]) == 0
    assert server.commits[server.branches['main']]['rali.safetensors'] == embedded().read_bytes()


@pytest.mark.parametrize('name', ['rali', 'a/b/c', './me/x', 'me/x:folder'])
def test_names_that_are_no_repository_are_rejected(name):
    with pytest.raises(CheckpointError, match='is not the name of a repository; give owner/name'):
        prepare_upload(embedded(), name)


@pytest.mark.slow
def test_reasoning_models_are_pushed_and_loaded(server, tmp_path, monkeypatch):
    from tests.tiny import tiny_vlm
    folder = Path(tiny_vlm(tmp_path / 'vlm'))
    (folder / 'training_args.bin').write_bytes(b'pickle')
    assert main(['push', str(folder), REPOSITORY, '--licence', 'apache-2.0']) == 0
    commit = server.branches['main']
    assert 'training_args.bin' not in server.commits[commit]
    assert "create_metric('rali-reasoning'" in server.commits[commit]['README.md'].decode()
    own, loaded = ReasoningScorer.from_pretrained(folder), ReasoningScorer.from_pretrained(REPOSITORY, revision=commit)
    assert weights_digest(own.model) == weights_digest(loaded.model) and loaded.card == own.card
    with pytest.raises(OptionError, match='revision: main is only for a repository'):
        ReasoningScorer.from_pretrained(folder, revision='main')
    assert hub.commit_of(loaded.reasoner.folder) == commit


def test_the_card_names_what_is_told_beside_the_score():
    from pyiqa_rali.report.model_card import rali_facts
    metadata = {'image_encoder': {'name': 'x', 'library': 'timm'}, 'mos_range': [1, 5], 'lower_better': False,
                'interval': {'images': 30, 'calibrated_on': ['photos']}, 'prompts': {'learned_from': ['made']},
                'diagnosis': {'faults': {'motion blur': 'focus', 'out of focus': 'focus', 'noise': 'noise'}}}
    told = dict(rali_facts('me/x', metadata, '1, 5', '1 million', 'none', 'mit').architecture)
    assert told['intervals'] == 'calibrated on 30 images of photos: score_with_interval'
    assert told['aspects'] == 'focus, noise' and 'learned from made' in told['alignment with prompts']
