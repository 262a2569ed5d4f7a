"""Everything but one build step stands in pyproject.toml: the start-up files go to the root of site-packages."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

START_UP_FILES = {
    'pyiqa_rali.pth': ("import sys; exec('try:\\n import pyiqa_rali_hook\\n pyiqa_rali_hook.install()\\n"
                       "except ImportError:\\n pass')\n"),
    'pyiqa_rali.start': 'pyiqa_rali_hook:install\n',
}


class BuildWithStartUpFiles(build_py):
    """Write the start-up files beside the package, in wheels and in editable installs."""

    def run(self):
        """Build as usual, then write them."""
        super().run()
        root = Path(self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib)
        root.mkdir(parents=True, exist_ok=True)
        for name, content in START_UP_FILES.items():
            (root / name).write_text(content, encoding='utf-8')

    def get_outputs(self, include_bytecode=True):
        """List them with the other files, so that they are uninstalled too; an editable wheel lists its own files."""
        outputs = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        return [*outputs, *(str(Path(self.build_lib, name)) for name in START_UP_FILES)]


setup(cmdclass={'build_py': BuildWithStartUpFiles})
