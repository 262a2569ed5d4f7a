import gc
import os
import subprocess
import sys

import pytest

from pyiqa_rali.core.memory import without_collections

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
