"""The process's one timer, by which code that cannot be asked to stop is interrupted."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, TimeoutError is raised after ``seconds``.

    Elsewhere than in the main thread, and on Windows, which has no such timer, it never is.
    Handler and timer are as before afterwards, with the time in between passed.
    """
    has_timer = hasattr(signal, "setitimer")
    if not has_timer or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_arguments) -> None:
        raise TimeoutError(f"it took over {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, expire)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if remaining:
            left = max(remaining - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
