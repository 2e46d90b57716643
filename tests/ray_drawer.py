"""A worker of ``render_many`` that dies."""

import os
import signal

from storyboard.rendering.many_workers import Drawer


class KilledDrawer(Drawer):
    """Ends its own process after a panel, once; ``killed`` beside the output folder says so."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.on_panel = self._die

    def _die(self):
        marker = self.settings.folder.parent / "killed"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
