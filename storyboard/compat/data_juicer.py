"""Data-Juicer as a library of operators, with what it changes in the process put back.

Importing Data-Juicer 1.6.1 removes all sinks of loguru, makes Pillow accept truncated files, sets
the root logger to INFO with a handler of its own and appends to ``sys.path``; running an operator
sets the start method of processes; an operator that lacks a package installs it with pip.
``data_juicer()`` is the one way in: everything of this is undone when it ends.

A child process would need no undoing, but would import Data-Juicer again for each call, which takes
longer than cleaning the sample set. What stays is the imported modules.

The functions below ``data_juicer`` read private attributes of operators and of their classes.
"""

import contextlib
import functools
import importlib.util
import inspect
import io
import sys
from collections.abc import Iterator
from types import ModuleType

from storyboard.compat import datasets, guard, loguru, pillow, process
from storyboard.errors import SettingsError

PACKAGE = "py-data-juicer"
CORE = "data_juicer.core"


@contextlib.contextmanager
def data_juicer() -> Iterator[ModuleType]:
    """``data_juicer.ops``, which inside installs nothing, logs nothing and asks no hub.

    Inside, a truncated picture is an error. Operators are made and run inside.

    Raises:
        LibraryError: Data-Juicer or a library under it has no such parts any more.
    """
    with contextlib.ExitStack() as stack:
        for kept in (
            process.state_kept(),
            pillow.truncated_images(allowed=False),
            loguru.silenced("data_juicer"),
        ):
            stack.enter_context(kept)
        with loguru.sinks_kept():
            ops = _imported()

        for kept in (
            pillow.truncated_images(allowed=False),  # the import has allowed them
            nothing_installed(),
            datasets.progress_bars_hidden(),
            datasets.offline(),
        ):
            stack.enter_context(kept)
        yield ops


def _imported() -> ModuleType:
    """``data_juicer.ops``; some of what it imports prints notices."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        postpone_executors()
        import data_juicer.ops
    return data_juicer.ops


def postpone_executors() -> None:
    """Have ``data_juicer.core`` run its ``__init__`` when an attribute of it is first used.

    It imports all executors, and ray for one of them: more than half of the time that all imports
    of Data-Juicer take. Operators and their pickles import ``data_juicer.core.data`` alone.
    ``importlib.util.LazyLoader`` would run it for the ``__path__`` that this import reads. The
    postponed module stays: whoever imports it later gets the whole package, and the same classes.
    """
    import data_juicer

    if CORE in sys.modules:
        return
    spec = importlib.util.find_spec(CORE)
    if spec is None or spec.loader is None:
        raise guard.changed(PACKAGE, f"there is no package {CORE}")
    loader = spec.loader
    package = data_juicer.core = sys.modules[CORE] = importlib.util.module_from_spec(spec)

    def load(attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = load


@contextlib.contextmanager
def nothing_installed() -> Iterator[None]:
    """Inside, an operator that lacks a package is a SettingsError instead of a call of pip."""
    from data_juicer.utils.lazy_loader import LazyLoader

    guard.require(PACKAGE, LazyLoader, "_install_package")
    before = inspect.getattr_static(LazyLoader, "_install_package")
    LazyLoader._install_package = classmethod(_refuse_to_install)
    try:
        yield
    finally:
        LazyLoader._install_package = before


def _refuse_to_install(_cls, specification: str, *_arguments) -> None:
    raise SettingsError(
        f"The recipe has an operator that needs {specification}: "
        f"install it (pip install {specification}) or take the operator out."
    )


def name_of(operator) -> str:
    """The name by which a recipe calls an operator."""
    guard.require(PACKAGE, operator, "_name")
    return operator._name


def arguments_of(operator) -> dict[str, object]:
    """The parameters that an operator was made with."""
    guard.require(PACKAGE, operator, "_init_kwargs")
    return operator._init_kwargs


def parameters_of(operator_class: type) -> set[str]:
    """Names of all parameters that an operator takes, those of every operator included."""
    from data_juicer.ops.base_op import OP

    guard.require(PACKAGE, OP, "_BASE_PARAMS")
    names = set(OP._BASE_PARAMS)
    for each in operator_class.__mro__:
        if "__init__" in vars(each) and each is not object:
            names |= inspect.signature(vars(each)["__init__"]).parameters.keys()
    return names


def shares_pictures(operator) -> bool:
    """Whether a deduplicator can take a picture that an operator before it has decoded."""
    return bool(_context(type(operator).compute_hash))


def compute_hash(operator, row: dict) -> dict:
    """``row`` with the columns that the deduplicator compares; raises what goes wrong.

    The method of the class is called: on the instance Data-Juicer has wrapped it in one that
    answers an exception with an empty row.
    """
    return type(operator).compute_hash(operator, row, context=True)


def measure_and_filter(operator, row: dict) -> tuple[dict, bool]:
    """``row`` with the statistics of a filter, and whether the filter keeps it."""
    from data_juicer.ops import Filter

    cls = type(operator)
    if cls.compute_stats_batched is Filter.compute_stats_batched:
        # the inherited one calls compute_stats_single without sharing the decoded picture
        row = operator.compute_stats_single(row, **_context(cls.compute_stats_single))
        return row, bool(operator.process_single(row))

    batch = {key: [value] for key, value in row.items()}
    batch = operator.compute_stats_batched(batch, **_context(cls.compute_stats_batched))
    (kept,) = operator.process_batched(batch)
    return {key: values[0] for key, values in batch.items()}, bool(kept)


@functools.cache  # called for each row
def _context(method) -> dict[str, bool]:
    """The argument by which an operator's ``method`` shares decoded pictures, if it has one."""
    return {"context": True} if "context" in inspect.signature(method).parameters else {}
