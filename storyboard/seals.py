"""JSON with a checksum of its own, by which damage is noticed when it is read again."""

import hashlib
import json


def sealed(content: dict) -> dict:
    """``content`` with its checksum, which ``is_sealed`` compares."""
    return content | {"checksum": _checksum(content)}


def is_sealed(content: object) -> bool:
    """Whether ``content`` is as ``sealed`` returned it; so is one of an earlier release."""
    if not isinstance(content, dict):
        return False
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return content.get("checksum", None) in (None, _checksum(rest))


def _checksum(content: dict) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
