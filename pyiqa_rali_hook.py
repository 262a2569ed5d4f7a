"""Start-up hook: lets a bare `import pyiqa` find the metrics of pyiqa_rali.

Python runs `install` at every start, through `pyiqa_rali.pth` or, where start-up code in `.pth` files is no longer run,
through `pyiqa_rali.start` (PEP 829). So this module imports nothing that the interpreter has not imported already, and
nothing else of the package until pyiqa itself is imported. `PYIQA_RALI_AUTO=0` switches it off.
"""

import os
import sys

SWITCH = 'PYIQA_RALI_AUTO'
HOST_MODULES = ('pyiqa.default_model_configs', 'pyiqa.utils.registry', 'pyiqa.models.inference_model')


def install():
    """Watch for pyiqa, unless the environment says otherwise. Safe to call twice: virtual environments do."""
    if os.environ.get(SWITCH) != '0':
        watch(HOST_MODULES)


def watch(names):
    """Call `pyiqa_rali.register` after each of the named modules of pyiqa has been imported.

    Args:
        names: some of `HOST_MODULES`, not imported yet.
    """
    for finder in sys.meta_path:
        if isinstance(finder, HostFinder):
            finder.waiting.update(names)
            return
    sys.meta_path.insert(0, HostFinder(names))


class HostFinder:
    """Meta-path finder that lets the other finders find a module and adds a step after the module has run.

    Args:
        names: the modules to wait for; the finder leaves `sys.meta_path` when it has met all of them.
    """

    def __init__(self, names):
        self.waiting = set(names)

    def find_spec(self, name, path=None, target=None):
        """Return the spec that the other finders give, with a loader that registers afterwards."""
        if name not in self.waiting:
            return None
        self.waiting.discard(name)  # first: another finder that delegates as this one does would come back here
        spec = self._ask_the_others(name, path, target)
        if spec is None:
            self.waiting.add(name)
        elif hasattr(spec.loader, 'exec_module'):
            spec.loader = RegisteringLoader(spec.loader, self)
        return spec

    def _ask_the_others(self, name, path, target):
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def leave_when_done(self):
        """Remove this finder once nothing is left to wait for."""
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


class RegisteringLoader:
    """Stands in for a module's loader until the module has run, then registers; otherwise it is that loader."""

    def __init__(self, loader, finder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        """Run the module with its own loader, then add our entries to it."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.leave_when_done()
        add_entries(module)


def add_entries(module):
    """Let `pyiqa_rali.register` add to a module of pyiqa; a failure is told on stderr and never stops pyiqa."""
    try:
        from pyiqa_rali.register import ADDITIONS
        ADDITIONS[module.__name__](module)
    except Exception as error:  # pyiqa must work whatever state this package is in
        if not (isinstance(error, ModuleNotFoundError) and error.name == 'pyiqa_rali'):  # gone: nothing to tell
            sys.stderr.write(f'pyiqa_rali: its metrics are not registered with pyiqa: {type(error).__name__}: {error} '
                             f'(reinstall pyiqa-rali, or set {SWITCH}=0 to switch this off)\n')
