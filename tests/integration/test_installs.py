import importlib.metadata
import shutil
import zipfile

import pytest

pytestmark = pytest.mark.slow

MODULES = 'import sys, json; print(json.dumps(sorted(sys.modules)))'
FINDERS = ('import sys, json; print(json.dumps([finder.__class__.__module__ for finder in sys.meta_path '
           "if type(finder).__name__ == 'HostFinder']))")
METRICS = "import pyiqa, json; print(json.dumps([name for name in pyiqa.list_models() if 'rali' in name]))"
BUILD_SDIST = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'
WEIGHTS = 'pyiqa_rali/model/weights/rali_lite.safetensors'
TYPED = 'pyiqa_rali/py.typed'  # without it, type checkers ignore the annotations of an installed package
START_UP_FILES = {'pyiqa_rali.pth', 'pyiqa_rali.start', 'pyiqa_rali_hook.py'}


@pytest.fixture(scope='module')
def sdist(sources, tmp_path_factory, new_environment):
    folder = tmp_path_factory.mktemp('sdist')
    environment = new_environment()
    copy = shutil.copytree(sources, environment.folder / 'copy')
    result = environment.run('-c', f'import os; os.chdir({str(copy)!r}); {BUILD_SDIST}', str(folder))
    assert result.returncode == 0, result.stderr
    return next(folder.glob('*.tar.gz'))


@pytest.fixture(params=['wheel', 'sdist', 'editable', 'strict editable'])
def what_to_install(request, sources):
    if request.param in ('wheel', 'sdist'):
        return [str(request.getfixturevalue(request.param))]
    mode = ['--config-settings', 'editable_mode=strict'] if 'strict' in request.param else []
    return ['--editable', str(sources), *mode]


def test_an_install_makes_pyiqa_know_us_and_can_be_undone(what_to_install, new_environment):
    environment = new_environment()
    before, modules_before = environment.files(), environment.json(MODULES)
    environment.install(*what_to_install)
    assert environment.json(METRICS) == ['rali', 'rali-cascade', 'rali-lite', 'rali-lite-v1', 'rali-reasoning']
    assert environment.json(FINDERS) == ['pyiqa_rali_hook']
    assert [name for name in ('pyiqa_rali.pth', 'pyiqa_rali.start') if not (environment.site / name).exists()] == []
    environment.pip('uninstall', '--yes', 'pyiqa-rali')
    assert environment.files() == before
    assert environment.json(MODULES) == modules_before


def test_an_interpreter_that_does_not_import_pyiqa_imports_one_small_module_more(installed, new_environment):
    without, with_us = new_environment().json(MODULES, PYTHONPATH=''), installed.json(MODULES, PYTHONPATH='')
    assert sorted(set(with_us) - set(without)) == ['pyiqa_rali_hook']


def test_the_wheel_lists_the_start_up_files_and_carries_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = archive.read(next(name for name in names if name.endswith('RECORD'))).decode()
    assert {name for name in names if '/' not in name} == START_UP_FILES
    assert [name for name in START_UP_FILES if f'{name},sha256=' not in record] == []
    assert {WEIGHTS, TYPED} <= set(names)
    assert [name for name in names if name.startswith(('tests', 'options', 'setup'))] == []


def test_the_sdist_carries_the_option_files_and_data(sdist, sources):
    import tarfile
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(sources)) for path in (sources / 'options').rglob('*.yml')}
    assert wanted and wanted | {'setup.py', 'LICENSE', 'README.md', 'pyiqa_rali_hook.py', WEIGHTS, TYPED} <= names


def test_the_start_file_names_a_function_to_call(installed):
    module, _, function = (installed.site / 'pyiqa_rali.start').read_text().strip().partition(':')
    assert installed.json(f'import {module}, json; print(json.dumps(callable({module}.{function})))')


def test_start_up_files_that_outlive_the_package_are_silent(new_environment, wheel):
    environment = new_environment()
    environment.install(str(wheel))
    shutil.rmtree(environment.site / 'pyiqa_rali')
    result = environment.run('-c', METRICS)
    assert (result.stdout.splitlines()[-1], 'pyiqa_rali' in result.stderr) == ('[]', False)
    (environment.site / 'pyiqa_rali_hook.py').unlink()
    shutil.rmtree(environment.site / '__pycache__', ignore_errors=True)
    result = environment.run('-c', 'print("alive")')
    assert (result.returncode, result.stdout, result.stderr) == (0, 'alive\n', '')


def test_the_script_and_the_entry_points_are_installed(installed):
    assert (installed.folder / 'bin' / 'pyiqa-rali').exists()
    distribution = next(importlib.metadata.distributions(path=[str(installed.site)]))
    found = sorted((point.group, point.value) for point in distribution.entry_points)
    assert found == [('console_scripts', 'pyiqa_rali.__main__:main'),
                     ('pyiqa.archs', 'pyiqa_rali.register:register'),
                     ('pyiqa.datasets', 'pyiqa_rali.register:register')]
