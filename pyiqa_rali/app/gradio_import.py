"""The import of Gradio without the stubs that it writes.

Whenever it is imported, Gradio reads the source of each of its components, parses it and writes a stub for editors beside it.
Nothing here needs them. Without, the import takes 0.6 of the time, and the folder of Gradio stays as it was installed.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WRITER, WRITES = 'gradio.component_meta', 'create_or_modify_pyi'


def import_gradio() -> Any:
    """Import Gradio and return it; where it looks otherwise, it is imported as it is."""
    finder: Any = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import gradio
    finally:
        sys.meta_path.remove(finder)
    return gradio


class _Finder:
    """Meta-path finder for the module that writes stubs."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the usual spec, with a loader that takes the writing out."""
        spec = PathFinder.find_spec(name, path, target) if name == WRITER else None
        if spec is None or not hasattr(spec.loader, 'exec_module'):
            return None
        loader: Any = _Loader(spec.loader)
        spec.loader = loader
        return spec


class _Loader:
    """Stands in for the module's own loader until the module has run."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module with its own loader, and take the writing out."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if hasattr(module, WRITES):
            setattr(module, WRITES, lambda *arguments: None)
