"""What results were computed with: versions of the packages that matter, and the state of the source."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ('pyiqa-rali', 'pyiqa', 'torch', 'timm', 'open_clip_torch', 'transformers', 'numpy', 'scipy', 'scikit-learn')


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that matter, and the git revision of the source, if it has one."""
    return {'python': platform.python_version(), 'machine': platform.machine(), **package_versions(),
            'git_revision': git_revision()}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = 'not installed'
    return found


def git_revision() -> str:
    """Return the commit of the checkout that this package runs from, followed by '+' when files were changed."""
    folder = Path(__file__).parents[1]
    try:
        revision = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(['git', 'status', '--porcelain', '-uno'], cwd=folder, capture_output=True, text=True,
                                 check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'none: not run from a git checkout'
    return revision.stdout.strip() + ('+' if changed.stdout.strip() else '')
