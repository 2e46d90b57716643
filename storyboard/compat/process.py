"""What a library may change in the Python process itself when it is imported or run."""

import contextlib
import logging
import multiprocessing
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def state_kept() -> Iterator[None]:
    """The root logger, ``sys.path``, start methods of processes and torch's threads are restored.

    torch is not imported for it, which takes seconds and 500 MB: where it is not yet imported
    there are no threads to restore.

    ``warnings.filters`` are left alone: those that a library adds when it is imported are meant for
    as long as it stays imported.
    """
    import multiprocess

    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    search_path = list(sys.path)
    pools = (multiprocessing, multiprocess)
    methods = [pool.get_start_method(allow_none=True) for pool in pools]
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        sys.path[:] = search_path
        for pool, method in zip(pools, methods, strict=True):
            pool.set_start_method(method, force=True)
        if torch:
            torch.set_num_threads(threads)
