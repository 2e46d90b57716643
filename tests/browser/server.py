"""A JupyterLab server of its own: a free port, its own settings, stopped with all it started."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.conftest import ROOT

START, STOP = 120, 60  # seconds that a server may take, on a busy machine
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/")
# no window that asks about news, no request to a website
QUIET = {"fetchNews": "false", "checkForUpdates": False}


class Server:
    """JupyterLab over ``folder``; its settings and its log lie in ``state``."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.log = state / "jupyterlab.log"
        _write_user_settings(state / "config")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                _command(folder, self.token),
                cwd=folder,
                env=_environment(state),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.port = self._port()
        except BaseException:
            self.stop()
            raise

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"

    def _port(self) -> int:
        """The port that it says it listens at."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            match = ADDRESS.search(self.log.read_text(encoding="utf-8"))
            if match:
                return int(match[1])
            time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start: {self.log.read_text(encoding='utf-8')}")

    def stop(self) -> None:
        """End the server, which ends its kernels, and whatever either leaves behind."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self.process.terminate()
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)


def _command(folder: Path, token: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
    ]


def _environment(state: Path) -> dict[str, str]:
    """Nothing of the person's own settings, and ``storyboard`` from this checkout.

    One thread, where nothing else is said: others would wait for the browser's.
    """
    return (
        {"OMP_NUM_THREADS": "1"}
        | os.environ
        | {
            "JUPYTER_CONFIG_DIR": str(state / "config"),
            "JUPYTER_DATA_DIR": str(state / "data"),
            "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
            "IPYTHONDIR": str(state / "ipython"),
            "PYTHONPATH": str(ROOT),
        }
    )


def _write_user_settings(config: Path) -> None:
    folder = config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    (folder / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))
