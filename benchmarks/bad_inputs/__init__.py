"""Inputs that must be handled, or refused in one sentence; one module an area."""


class Wrong(Exception):
    """An input was neither handled nor refused."""
