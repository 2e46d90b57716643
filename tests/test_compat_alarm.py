"""The process's one timer."""

import signal
import threading
import time

import pytest

from storyboard.compat import alarm


def test_a_time_limit_leaves_the_timer_as_it_was():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError, match=r"over 0.05 s"), alarm.time_limit(0.05):
            time.sleep(5)
        assert not rang
        time.sleep(0.3)
        assert rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_elsewhere_than_in_the_main_thread_there_is_no_limit():
    def work():
        with alarm.time_limit(0.01):
            time.sleep(0.05)
        done.append(True)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_without_a_timer_as_on_windows_there_is_no_limit(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    with alarm.time_limit(0.01):
        time.sleep(0.05)
