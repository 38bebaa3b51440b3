"""Do something once a module is imported, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .guard import Guard

Callback = Callable[[ModuleType], None]


def when_imported(name: str, callback: Callback) -> Callable[[], None]:
    """Call `callback(module)` now if `name` is imported, else right after its import; returns a function that stops it.

    One finder serves all names: an import of any other module costs one look-up in a dict, and nothing once each
    module has come.
    """
    guarded = Guard("import hook")(callback)
    module = sys.modules.get(name)
    # While a module is being executed it is in sys.modules already, half done.
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        guarded(module)
        return lambda: None
    return _finder.add(name, lambda module: (guarded(module), None)[1])


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self._waiting: dict[str, list[Callback]] = {}

    def add(self, name: str, callback: Callback) -> Callable[[], None]:
        self._waiting.setdefault(name, []).append(callback)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

        def stop() -> None:
            callbacks = self._waiting.get(name, [])
            if callback in callbacks:
                callbacks.remove(callback)
            self._tidy(name)

        return stop

    def imported(self, module: ModuleType) -> None:
        """Call whoever waits for this module."""
        for callback in self._waiting.pop(module.__name__, []):
            callback(module)
        self._tidy(module.__name__)

    def _tidy(self, name: str) -> None:
        if not self._waiting.get(name, True):
            del self._waiting[name]
        if not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._waiting:
            return None
        # Whether the module exists is often asked without importing it: the callbacks wait until it is executed.
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find and finder is not self else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """The module's own loader, with the callbacks after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _finder.imported(module)


_finder = _Finder()
