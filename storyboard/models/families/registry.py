"""The families that are known, by name."""

from storyboard.models.families.family import Family

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make ``family`` known; one of the same name is replaced."""
    _FAMILIES.pop(family.name, None)
    _FAMILIES[family.name] = family
    return family


def forget(name: str) -> None:
    """Undo ``register``; KeyError where there is none of this name."""
    del _FAMILIES[name]


def known() -> tuple[Family, ...]:
    """All families, the last one registered first."""
    return tuple(reversed(_FAMILIES.values()))


def titles() -> str:
    """How people call the families, for messages: ``"A, B and C"``."""
    *most, last = [family.title for family in _FAMILIES.values()]
    return f"{', '.join(most)} and {last}" if most else last


def by_name(name: str) -> Family:
    """The family that is called ``name``; KeyError where there is none."""
    return _FAMILIES[name]


def by_pipeline(pipeline: str) -> Family:
    """The family that diffusers' class ``pipeline`` draws, the first one registered.

    Records of the version before name a pipeline and no family, so that only families of then are
    meant.

    Raises:
        KeyError: There is none.
    """
    for family in _FAMILIES.values():
        if family.pipeline == pipeline:
            return family
    raise KeyError(pipeline)
