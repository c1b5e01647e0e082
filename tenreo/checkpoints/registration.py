"""Registration of the quantizer with transformers when it is imported, before or after tenreo. Imports neither torch.

transformers has no entry points for quantizers of other packages, and importing it takes seconds.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULE = "transformers.quantizers.auto"  # the module with the tables of quantizers


def register_quantizer() -> None:
    """Register the quantizer at once if the tables of transformers are imported already, or else after their import."""
    if _MODULE in sys.modules:
        _register(sys.modules[_MODULE])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register(module: ModuleType) -> None:
    if hasattr(module, "register_quantizer"):  # false before version 4.49
        import_module("tenreo.checkpoints.quantizer")


class _AfterImport:
    """Finds and loads the tables of transformers as Python would, and then registers the quantizer.

    The abstract classes of `importlib.abc` are not used, because importing them takes as long as the rest of tenreo.
    """

    _loader: Any

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of the module with this object as its loader; None for any other module."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _MODULE else None
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module, and register the quantizer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)
