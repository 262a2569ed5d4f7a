import gc
import importlib
import os
import platform
import subprocess
import sys

import pytest

from pyiqa_rali.core.memory import keep_freed_memory, without_collections

SCORE = """
import sys, warnings
warnings.simplefilter('ignore')
import torch, pyiqa
metric = pyiqa.create_metric('rali-lite', device='cpu')
for number in range(40):
    metric(torch.zeros(1, 3, 64, 64 + 8 * number))
print('again', flush=True)
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
    metric(torch.zeros(1, 3, 64, 64))
"""


@pytest.mark.slow
@pytest.mark.parametrize(('given', 'kept'), [(None, False), ('4096', True)])
def test_pictures_of_many_sizes_do_not_fill_the_memory_with_primitives(given, kept):
    """The primitives of the first size are gone after those of 39 others, unless the user keeps more of them."""
    environment = {key: value for key, value in os.environ.items() if key != 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'}
    environment |= {'ONEDNN_PRIMITIVE_CACHE_CAPACITY': given} if given else {}
    told = subprocess.run([sys.executable, '-c', SCORE], env=environment, capture_output=True, text=True, check=True).stdout
    again = told.partition('again')[2]
    convolutions = [line for line in again.splitlines() if ',convolution,' in line and 'create:cache_' in line]
    misses = sum('create:cache_miss' in line for line in convolutions)  # layers of one shape share a primitive
    assert len(convolutions) > 8 and (misses == 0 if kept else misses > 4)

FAULTS = """
import resource, sys
import numpy as np
from pyiqa_rali.core.memory import keep_freed_memory
if sys.argv[1] == 'keep':
    print(keep_freed_memory())
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(8_000_000) for _ in range(4)]
    del arrays
    found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(found)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='an option of glibc')
def test_memory_that_is_freed_serves_the_next_step():
    """The third time, 256 MB cost no page of the system; without it all of them; and what the user has set stays."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith('MALLOC_') and key != 'GLIBC_TUNABLES'}

    def told(how, **given):
        return subprocess.run([sys.executable, '-c', FAULTS, how], env=clean | given, capture_output=True, text=True,
                              check=True).stdout.split()

    plain, kept, users = told('plain'), told('keep'), told('keep', MALLOC_ARENA_MAX='2')
    assert kept[0] == 'True' and users[0] == 'False'
    assert int(plain[0]) > 50 and 10 * int(kept[1]) < int(plain[0])  # pages of 4 kB, or of 2 MB


@pytest.mark.parametrize(('system', 'library', 'given'), [
    ('darwin', 'glibc', {}), ('win32', '', {}), ('linux', 'musl', {}), ('linux', 'glibc', {'GLIBC_TUNABLES': ''})])
def test_another_library_and_what_the_user_has_set_are_left_alone(monkeypatch, system, library, given):
    for name in [name for name in os.environ if name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES']:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.setattr(platform, 'libc_ver', lambda: (library, ''))
    monkeypatch.setattr('ctypes.CDLL', lambda name: pytest.fail('asked the C library'))
    assert keep_freed_memory() is False


@pytest.mark.parametrize('program', ['train', '__main__'])
def test_only_a_process_of_its_own_keeps_freed_memory(monkeypatch, program):
    """A caller's process is left as it is; as a program, training and what measures pictures keep it, scoring does not."""
    module = importlib.import_module(f'pyiqa_rali.{program}')
    kept = []
    monkeypatch.setattr(module, 'keep_freed_memory', lambda: kept.append(True))
    monkeypatch.setattr(module, 'exit_status', lambda *args, **named: 0)
    arguments = {'train': ['-opt', 'any.yml'], '__main__': ['measure-texts', 'any.jpg', '--out', 'any.jsonl']}[program]
    assert module.main(arguments) == 0 and not kept
    monkeypatch.setattr(sys, 'argv', ['program', *arguments])
    assert module.main() == 0 and kept == [True]
    if program == '__main__':
        monkeypatch.setattr(sys, 'argv', ['program', 'score', 'any.jpg'])
        assert module.main() == 0 and kept == [True]


def test_what_a_start_makes_is_never_looked_through():
    before = gc.get_freeze_count()
    try:
        with without_collections():
            assert not gc.isenabled()
            made = [[] for _ in range(50_000)]
        assert gc.isenabled() and gc.get_freeze_count() >= before + len(made)
        with pytest.raises(ValueError, match='no start'), without_collections():
            raise ValueError('no start')
        assert gc.isenabled()
        gc.disable()
        with without_collections():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()
        gc.unfreeze()
