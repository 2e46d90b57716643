"""Storyboard: from a folder of pictures to an eight-picture story in your own style, in a notebook.

A name is imported when it is first used, so that importing the package takes no time.
``lazy_loader`` would do the same, but the notebook's first cell imports this package before its
requirements are installed.
"""

from importlib import import_module

_MODULES = {  # as in __init__.pyi, which type checkers and editors read
    "Pair": "scoring.comparison",
    "Panel": "story",
    "Reference": "reference",
    "Settings": "settings",
    "Story": "story",
    "StoryboardError": "errors",
    "best": "scoring.stage",
    "bundle": "exporting.bundle",
    "check": "machine",
    "clean": "data.cleaning",
    "collect": "data.collecting",
    "convert": "lora.conversion",
    "curate": "widgets.curating",
    "denoising": "rendering.strips",
    "edit_story": "widgets.story_editing",
    "files": "machine",
    "import_lora": "lora.importing",
    "install": "installation.stage",
    "keep": "keeping.keep",
    "merge": "lora.merging",
    "preview": "notebook",
    "publish": "exporting.publish",
    "render": "notebook",
    "render_many": "notebook",
    "reproduce": "exporting.reproduce",
    "restore": "keeping.restore",
    "save_workflow": "exporting.comfyui.graph",
    "score": "scoring.stage",
    "strengths": "rendering.strips",
    "train": "training.stage",
    "variations": "rendering.strips",
    "workflow": "exporting.comfyui.graph",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'storyboard' has no attribute {name!r}")
    value = getattr(import_module(f"storyboard.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES.keys())


__all__ = sorted(_MODULES)  # noqa: PLE0605 (a list, though not a literal)
