"""The families that are known, by name."""

from storyboard.models.families.family import Family

_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make ``family`` known; one of the same name is replaced."""
    _FAMILIES.pop(family.name, None)
    _FAMILIES[family.name] = family
    return family


def forget(name: str) -> None:
    """Undo ``register``."""
    del _FAMILIES[name]


def known() -> tuple[Family, ...]:
    """All families, the last one registered first."""
    return tuple(reversed(_FAMILIES.values()))


def by_name(name: str) -> Family:
    """The family that is called ``name``; KeyError where there is none."""
    return _FAMILIES[name]


def by_pipeline(pipeline: str) -> Family:
    """The family that diffusers' class ``pipeline`` draws; KeyError where there is none."""
    for family in known():
        if family.pipeline == pipeline:
            return family
    raise KeyError(pipeline)
