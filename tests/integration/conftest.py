"""Fresh virtual environments, in seconds: they see the dependencies of this interpreter, but nothing of pyiqa_rali."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
OWN = ('pyiqa_rali', 'pyiqa-rali')
SOURCES = ('pyproject.toml', 'setup.cfg', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md',
           'pyiqa_rali_hook.py', 'pyiqa_rali', 'options')


class Environment:
    """A virtual environment.

    Args:
        folder: where it is made.
        dependencies: a folder of packages that it can import.
    """

    def __init__(self, folder: Path, dependencies: Path):
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        self.site = next(folder.glob('lib/python*/site-packages'))
        (self.site / 'dependencies.pth').write_text(f'{dependencies}\n')

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run Python outside the repository and return its output, whatever its exit status."""
        return subprocess.run([self.python, *arguments], cwd=self.folder, env={**os.environ, **environment},
                              capture_output=True, text=True)

    def json(self, code: str, **environment: str) -> Any:
        """Run code in a fresh process and return what its last line prints as JSON; warnings of ours are errors."""
        result = self.run('-c', code, **environment)
        assert result.returncode == 0, result.stderr
        assert 'pyiqa_rali' not in result.stderr and 'registry plugin' not in result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    def pip(self, *arguments: str) -> None:
        """Run pip, which must succeed."""
        result = self.run('-m', 'pip', *arguments)
        assert result.returncode == 0, result.stdout + result.stderr

    def install(self, *arguments: str) -> None:
        """Install without dependencies, an isolated build or an index."""
        self.pip('install', '--no-deps', '--no-build-isolation', '--no-index', *arguments)

    def files(self) -> set[str]:
        """Return all files and folders of the environment but compiled Python."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob('*'))
        return {str(path) for path in paths if '__pycache__' not in path.parts}


@pytest.fixture(scope='session')
def dependencies(tmp_path_factory) -> Path:
    """A folder of links to every package that this interpreter can import, except ours."""
    folder = tmp_path_factory.mktemp('dependencies')
    for site in (Path(entry) for entry in sys.path if Path(entry).name in ('site-packages', 'dist-packages')):
        for package in site.iterdir():
            own = any(name in package.name for name in OWN)
            if not own and package.suffix != '.pth' and not (folder / package.name).exists():
                (folder / package.name).symlink_to(package)
    return folder


@pytest.fixture(scope='session')
def new_environment(tmp_path_factory, dependencies):
    """A function that makes an environment."""
    return lambda: Environment(tmp_path_factory.mktemp('venv') / 'v', dependencies)


@pytest.fixture(scope='session')
def sources(tmp_path_factory) -> Path:
    """A copy of what makes the package, so that building leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp('sources')
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '*.part'))
        else:
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope='session')
def wheel(sources, tmp_path_factory, new_environment) -> Path:
    """The wheel of this repository."""
    folder = tmp_path_factory.mktemp('wheel')
    new_environment().pip('wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', str(folder), str(sources))
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='session')
def installed(new_environment, wheel) -> Environment:
    """An environment with the wheel installed; to be read only."""
    environment = new_environment()
    environment.install(str(wheel))
    return environment
