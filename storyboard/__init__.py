"""Storyboard: from a folder of pictures to an eight-picture story in your own style, in one notebook.

Names are imported when they are first used, so that importing the package takes no time.
"""

from importlib import import_module

_WHERE = {
    "Settings": "settings",
    "Story": "story",
    "Panel": "story",
    "Reference": "reference",
    "check": "machine",
    "files": "machine",
    "installed": "machine",
    "collect": "data.collecting",
    "clean": "data.cleaning",
    "train": "training.stage",
    "render": "notebook",
    "import_lora": "lora.importing",
    "score": "scoring.stage",
    "best": "scoring.stage",
    "Pair": "scoring.comparison",
    "StoryboardError": "errors",
    "bundle": "exporting.bundle",
    "reproduce": "exporting.reproduce",
    "publish": "exporting.publish",
    "convert": "lora.conversion",
    "merge": "lora.merging",
    "workflow": "exporting.comfyui.graph",
    "save_workflow": "exporting.comfyui.graph",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'storyboard' has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value
