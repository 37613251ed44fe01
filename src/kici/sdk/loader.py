"""Imports workflow and fixture files the same way at compile time and in the runner.

`.kici` goes first on `sys.path`; its `workflows` folder becomes the package `workflows`, whatever
else on the path has that name. Files may import one another (`from workflows.ci import package`).
"""

import importlib.util
import os
import sys
from types import ModuleType

WORKFLOWS = "workflows"
TESTS = "tests"


def prepare_path(kici_dir: str) -> None:
    """Make helpers in `.kici` and the package `workflows` importable."""
    if kici_dir not in sys.path:
        sys.path.insert(0, kici_dir)
    folder = os.path.join(kici_dir, WORKFLOWS)
    package = sys.modules.get(WORKFLOWS)
    if package is None or list(getattr(package, "__path__", ())) != [folder]:
        package = ModuleType(WORKFLOWS)
        package.__path__ = [folder]
        sys.modules[WORKFLOWS] = package


def load_workflow_file(kici_dir: str, path: str) -> ModuleType:
    """The module of `path`, a file in `.kici/workflows`; raises whatever the file raises.

    Both paths are absolute. A file that another one imported already is not run again.
    """
    prepare_path(kici_dir)
    return _load(f"{WORKFLOWS}.{os.path.splitext(os.path.basename(path))[0]}", path)


def load_fixture_file(kici_dir: str, path: str) -> ModuleType:
    """The module of `path`, a file below `.kici/tests`; raises whatever the file raises."""
    prepare_path(kici_dir)
    below = os.path.relpath(os.path.splitext(path)[0], os.path.join(kici_dir, TESTS))
    return _load(f"{TESTS}.{below.replace(os.sep, '.')}", path)


def _load(name: str, path: str) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
