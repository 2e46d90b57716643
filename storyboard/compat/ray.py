"""Ray: connections that end where they began, and what it says and sends home.

``ray.init`` sets up loggers and, for a Ray of its own, reports usage to its makers. Importing
``ray.data`` sets up a logger that writes a line for each step of its plan.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from storyboard.compat import process
from storyboard.errors import SettingsError, brief

PACKAGE = "ray"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of its core, which writes past Python's streams
}

# of the process that runs Ray Train and of its workers
TRAIN_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a machine that is taken away ends as any other
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # for room on the machines; then it looks anew, as one may be dead that still seemed alive
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0",  # each worker's own GPU is its "cuda"
}
SECONDS_TO_ANSWER = 10


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """``ray``, connected to ``address``; a connection that the user has is taken, and stays.

    Args:
        address: ``"local"`` starts a Ray on this machine, which ends with the connection.

    Raises:
        SettingsError: Ray is not installed, or none answers there.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise SettingsError(
            f'cluster={brief(address)} needs Ray: run %pip install "ray>=2.60,<2.61", or set '
            "cluster=None."
        )
    with process.state_kept(), _environment_set(), contextlib.ExitStack() as silence:
        import ray

        silence.enter_context(quiet("ray"))  # the import has set its level
        if ray.is_initialized():
            yield ray
            return
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, configure_logging=False)
        # Ray has no error of its own for a wrong address or token
        except (OSError, RuntimeError, ValueError) as error:
            raise _not_connected(ray, address, error) from error
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def data() -> Iterator[ModuleType]:
    """``ray.data``, which inside keeps the order of rows and writes neither lines nor bars."""
    import ray.data

    context = ray.data.DataContext.get_current()
    bars, ordered = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    try:
        with quiet("ray.data"):
            yield ray.data
    finally:
        context.enable_progress_bars = bars
        context.execution_options.preserve_order = ordered


def map_batches(rows: Any, worker: type, retries: int, **options: Any) -> Any:
    """``rows.map_batches``; what is done of them is done again ``retries`` times if workers die.

    Ray 2.60 has no name for that but one that it warns of, and without it there is no end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rows.map_batches(worker, max_task_retries=retries, **options)


def own_node() -> str:
    """The id of the node that this process is connected to."""
    import ray

    return ray.get_runtime_context().get_node_id()


def on_node(node: str) -> Any:
    """Where an actor or a task runs: on that node of Ray's and on no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Inside, the loggers ``names`` are silent: what goes wrong is raised."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _environment_set() -> Iterator[None]:
    """Inside, ``ENVIRONMENT`` holds, but for what the user has set; Ray sets more, which goes."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(ENVIRONMENT | before)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at ``host:port``, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()


def _not_connected(ray: ModuleType, address: str, error: Exception) -> SettingsError:
    if isinstance(error.__cause__, ray.exceptions.AuthenticationError):
        return SettingsError(
            f"cluster={brief(address)}: that Ray asks for its token: copy ~/.ray/auth_token from "
            "its head, set RAY_AUTH_MODE=token before the notebook's kernel starts, and run this "
            "cell again."
        )
    return SettingsError(
        f"cluster={brief(address)}: no Ray answers there ({_first_line(error)}): start one "
        'by ray start --head, or set cluster="local" or None.'
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
