"""One file a form. Every module here that has a ``FORM`` is known; ``register`` adds another."""

from importlib import import_module
from pkgutil import iter_modules

from storyboard.lora.forms.registry import (
    Form,
    forget,
    form_of,
    known,
    read,
    recognised,
    register,
    writers,
)

__all__ = ["Form", "forget", "form_of", "known", "read", "recognised", "register", "writers"]

for each in iter_modules(__path__):
    module = import_module(f"{__name__}.{each.name}")
    if hasattr(module, "FORM"):
        register(module.FORM)
