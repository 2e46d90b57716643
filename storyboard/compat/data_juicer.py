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
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pickle import UnpicklingError
from types import ModuleType

from storyboard.compat import datasets, guard, loguru, pillow, process
from storyboard.errors import SettingsError

PACKAGE = "py-data-juicer"
CORE = "data_juicer.core"
MESSAGE_LENGTH = 300  # characters of an operator's own error


class MissingPackage(SettingsError):
    """An operator needs a package that is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"The recipe has an operator that needs {package}: "
            f"install it (pip install {package}) or take the operator out."
        )
        self.package = package


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operator.

    Attributes:
        annotation: Its type; None where the operator has none.
        default: Its default; ``inspect.Parameter.empty`` where it has none.
    """

    annotation: object
    default: object

    def mismatch(self, value: str) -> str:
        """Why ``value`` (JSON) is of another type, as "should be ..."; empty where it is not."""
        import pydantic

        if self.annotation is None:
            return ""
        try:
            adapter = pydantic.TypeAdapter(self.annotation)
        except pydantic.errors.PydanticUserError:  # a type without a schema, such as a function
            return ""
        try:
            adapter.validate_json(value, strict=True)
        except pydantic.ValidationError as error:
            return error.errors()[0]["msg"].removeprefix("Input ")
        return ""


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
    raise MissingPackage(specification)


def message_of(error: BaseException) -> str:
    """The kind and the words of an operator's own error, in one line."""
    words = " ".join(str(error).split())[:MESSAGE_LENGTH].rstrip(".")
    if isinstance(error, UnpicklingError):  # torch's words say how to run its code
        words = "its weights are a pickle that holds more than tensors"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def name_of(operator) -> str:
    """The name by which a recipe calls an operator."""
    guard.require(PACKAGE, operator, "_name")
    return operator._name


def arguments_of(operator) -> dict[str, object]:
    """The parameters that an operator was made with."""
    guard.require(PACKAGE, operator, "_init_kwargs")
    return operator._init_kwargs


def parameters_of(operator_class: type) -> dict[str, Parameter]:
    """All parameters that an operator takes by name, those of every operator included."""
    guard.require(PACKAGE, operator_class, "_BASE_PARAMS")
    parameters = {
        name: Parameter(annotation, default)
        for name, (annotation, default) in operator_class._BASE_PARAMS.items()
    }
    for each in reversed(operator_class.__mro__):
        if "__init__" not in vars(each) or each is object:
            continue
        init = vars(each)["__init__"]
        annotations = typing.get_type_hints(init, include_extras=True)
        parameters |= {
            name: Parameter(annotations.get(name), parameter.default)
            for name, parameter in inspect.signature(init).parameters.items()
            if name != "self" and parameter.kind in _BY_NAME
        }
    return parameters


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def shares_pictures(operator) -> bool:
    """Whether a deduplicator can take a picture that an operator before it has decoded."""
    return bool(_context(type(operator).compute_hash))


def compute_hash(operator, row: dict) -> dict:
    """``row`` with the columns that the deduplicator compares; raises what goes wrong.

    The method of the class is called: on the instance Data-Juicer has wrapped it in one that
    answers an exception with an empty row.
    """
    method = type(operator).compute_hash
    return method(operator, row, **_context(method))


def with_picture_token(text: str) -> str:
    """``text`` with the token that stands for the row's one picture."""
    from data_juicer.utils.mm_utils import SpecialTokens

    return f"{SpecialTokens.image} {text}"


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


def map_row(operator, row: dict) -> list[tuple[str, list[str]]]:
    """Texts and pictures of the rows that a mapper makes of ``row``; raises what goes wrong.

    Raises:
        ValueError: What the mapper returns is no row.
    """
    if operator.is_batched_op():
        batch = {key: [value] for key, value in row.items()}
        mapped = type(operator).process_batched(operator, batch)
    else:
        single = type(operator).process_single(operator, row)
        mapped = {key: [value] for key, value in single.items()}

    pairs = list(zip(mapped["text"], mapped["images"], strict=True))
    for text, images in pairs:
        if not isinstance(text, str) or not isinstance(images, list):
            raise ValueError("it returned neither a caption nor a list of pictures")
    return pairs


@functools.cache  # called for each row
def _context(method) -> dict[str, bool]:
    """The argument by which an operator's ``method`` shares decoded pictures, if it has one."""
    return {"context": True} if "context" in inspect.signature(method).parameters else {}
