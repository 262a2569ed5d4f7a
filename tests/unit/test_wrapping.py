"""Checkpoints that other tools have saved: with the prefixes of wrapped modules, and wherever the state dict stands."""

import pytest
import torch
from safetensors.torch import save_file

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.model.checkpoint import load_checkpoint, load_metadata, save_checkpoint
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.model.wrapping import state_dict_in, unwrapped, wrapping


@pytest.fixture(scope='module')
def net():
    return RALI(pretrained='rali-lite')


@pytest.mark.parametrize(('names', 'prefix'), [
    (['module.a', 'module.b'], 'module.'), (['_orig_mod.module.a'], '_orig_mod.module.'), (['module.a', 'b'], ''), ([], ''),
    (['net.module.a', 'net.module.b'], 'net.module.'), ([1, 'module.a'], ''), (['modules.a'], '')])
def test_prefixes(names, prefix):
    assert wrapping(names) == prefix
    assert list(unwrapped(dict.fromkeys(names))) == [name if prefix == '' else name[len(prefix):] for name in names]


def test_state_dicts_in_files():
    assert state_dict_in({'params': {'module.a': 1}}) == state_dict_in({'state_dict': {'a': 1}, 'epoch': 3}) == {'a': 1}
    assert state_dict_in({'module.a': 1}) == {'a': 1} and state_dict_in([1]) is None


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'net.', 'module._orig_mod.'])
@pytest.mark.parametrize('nested', ['params', 'state_dict', 'model', None])
def test_a_torch_file_scores_as_the_net_that_it_was_saved_from(net, tmp_path, prefix, nested):
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save(state if nested is None else {nested: state, 'epoch': torch.tensor(3)}, tmp_path / 'mine.pth')
    images = torch.rand(2, 3, 64, 80)
    again = RALI(pretrained_model_path=tmp_path / 'mine.pth')
    assert torch.allclose(again(images), net(images), atol=1e-5) and again.score_range == net.score_range
    assert load_metadata(tmp_path / 'mine.pth')['mos_range'] == [1, 5]


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.'])
def test_a_safetensors_file_with_prefixes(net, tmp_path, prefix):
    images = torch.rand(2, 3, 64, 80)
    state = {prefix + name: value.contiguous().clone() for name, value in net.state_dict().items()}
    save_file(state, tmp_path / 'mine.safetensors')  # without our header: the state dict itself carries the metadata
    assert torch.allclose(RALI(pretrained_model_path=tmp_path / 'mine.safetensors')(images), net(images), atol=1e-5)
    tensors, metadata = load_checkpoint(locate_checkpoint('rali-lite'))
    save_checkpoint(tmp_path / 'ours.safetensors', tensors, metadata)
    from safetensors import safe_open
    with safe_open(tmp_path / 'ours.safetensors', framework='pt') as stream:
        header = stream.metadata()
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / 'half.safetensors', header)
    assert torch.allclose(RALI(pretrained_model_path=tmp_path / 'half.safetensors')(images), net(images), atol=1e-5)


@pytest.mark.parametrize('wrap', [lambda net: torch.nn.DataParallel(net), lambda net: torch.compile(net, backend='eager')])
def test_weights_of_a_wrapped_net_are_loaded(net, wrap):
    state = wrap(net).state_dict()
    assert not set(state) & set(net.state_dict())
    other = RALI(pretrained='rali-lite')
    with torch.no_grad():
        other.scorer.basis_scores.add_(1)
    other.load_state_dict(state)
    images = torch.rand(1, 3, 64, 80)
    assert torch.allclose(other(images), net(images), atol=1e-5)


def test_pyiqas_load_weights_takes_them(net, tmp_path):
    import pyiqa
    torch.save({'params': {f'module.{name}': value for name, value in net.state_dict().items()}}, tmp_path / 'mine.pth')
    metric = pyiqa.create_metric('rali-lite', device='cpu')
    metric.load_weights(str(tmp_path / 'mine.pth'))
    images = torch.rand(1, 3, 64, 80)
    assert torch.allclose(metric(images), net(images), atol=1e-5)


def test_files_without_our_weights_are_refused(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'empty.pth')
    torch.save({'module.a': torch.zeros(1)}, tmp_path / 'foreign.pth')
    torch.save({'epoch': 3, 'lr': 0.1}, tmp_path / 'settings.pth')
    torch.save([1, 2], tmp_path / 'list.pt')
    torch.save({'state_dict': {'visual.conv1.weight': torch.zeros(1)}, 'epoch': 3}, tmp_path / 'openclip.pt')
    torch.save({'state_dict': {'clip.a': torch.zeros(1), 'scorer.pca_scale': torch.zeros(1)}}, tmp_path / 'ckpt.pt')
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'module.pt')
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / 'script.pt')
    (tmp_path / 'junk.pt').write_bytes(b'junk')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'module.pt').read_bytes()[:-200])
    save_file({'visual.a': torch.zeros(1)}, tmp_path / 'other.safetensors')
    other = r'has no "pyiqa_rali" metadata; .* It holds other weights \({}\)\. Give an export .* pretrained: FILE'
    for name, message in (('empty.pth', 'holds no "params" and no other state dict'), ('foreign.pth', other.format('a')),
                          ('settings.pth', 'holds no "params" and no other state dict; .* Give an export'),
                          ('list.pt', 'holds no "params"'), ('openclip.pt', other.format('visual.conv1.weight')),
                          ('other.safetensors', other.format('visual.a')),
                          ('ckpt.pt', 'a part of the released RALI, .* convert its folder with'),
                          ('module.pt', r'UnpicklingError.* holds objects of Python .* not loaded, .* state_dict\(\) alone'),
                          ('script.pt', 'It is a program in TorchScript, which is not run here. Give an export'),
                          ('junk.pt', 'truncated or of another format'), ('cut.pt', 'truncated or of another format')):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)
