"""What holds for all tests: no network, one thread, and none of the user's folders or settings.

It stands in environment variables, so that it holds in child processes too, and is set before any test imports torch.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

NO_NETWORK = Path(__file__).parent / 'no_network'
HOME = Path(tempfile.mkdtemp(prefix='pyiqa_rali_tests_'))
DEAD_PROXY = 'http://127.0.0.1:9'  # for programs that are not Python: nothing listens on this port
ENVIRONMENT = {
    'PYTHONPATH': os.pathsep.join(filter(None, [str(NO_NETWORK), os.environ.get('PYTHONPATH')])),
    'HTTP_PROXY': DEAD_PROXY, 'HTTPS_PROXY': DEAD_PROXY, 'ALL_PROXY': DEAD_PROXY, 'NO_PROXY': 'localhost,127.0.0.1,::1',
    'HF_HUB_OFFLINE': '1', 'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1',
    'HF_HOME': str(HOME / 'huggingface'), 'TORCH_HOME': str(HOME / 'torch'),
    'XDG_CONFIG_HOME': str(HOME / 'config'), 'XDG_CACHE_HOME': str(HOME / 'cache'), 'MPLBACKEND': 'Agg',
    'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false',
}

for own in [name for name in os.environ if name.startswith(('PYIQA_RALI_', 'HF_', 'HUGGINGFACE_'))]:
    del os.environ[own]
os.environ.update(ENVIRONMENT)
os.environ.update({name.lower(): value for name, value in ENVIRONMENT.items() if name.endswith('_PROXY')})

_spec = importlib.util.spec_from_file_location('no_network', NO_NETWORK / 'sitecustomize.py')
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))


def pytest_unconfigure():
    """Remove the folders that stood in for the user's."""
    shutil.rmtree(HOME, ignore_errors=True)
