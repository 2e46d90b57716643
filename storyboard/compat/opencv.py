"""OpenCV, whose import puts its own folder into ``LD_LIBRARY_PATH`` for child processes."""

import importlib
import os


def _imported():
    """The module, with the environment as it was before its import."""
    before = dict(os.environ)
    try:
        return importlib.import_module("cv2")
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


cv2 = _imported()
