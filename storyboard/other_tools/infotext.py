"""What a picture of another tool says, and the checked ways to its fields."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from storyboard import prompts
from storyboard.errors import SettingsError

MAX_SEED_DIGITS = 20  # of 2^64, the largest seed that a tool draws
MAX_TEXT = 16 * 2**20  # characters of a text that is read
MAX_PROMPT = 5 * prompts.MAX_LENGTH  # characters of a prompt with its tags


@dataclass(frozen=True)
class Infotext:
    """What the text of a picture says of how it was made.

    Attributes:
        seed: None where the text names none.
        settings: All else, by its name there.
        tool: Which program wrote it.
        notes: What a story cannot do as that program did, a sentence each.
    """

    prompt: str
    negative_prompt: str
    seed: int | None
    settings: Mapping[str, object]
    tool: str = "A1111"
    notes: tuple[str, ...] = field(default=())


def parsed_json(content: str, chunk: str) -> object:
    """``content`` as JSON.

    Raises:
        SettingsError: It is damaged, nested without end, or longer than is read; names ``chunk``.
    """
    bounded(content, f"{chunk} text", MAX_TEXT)
    try:
        return json.loads(content)
    except ValueError as error:
        raise SettingsError(
            f"its {chunk} text is damaged JSON ({_short(error)}): give a picture as it was saved."
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"its {chunk} text is JSON that is nested without end: give a picture as it was saved."
        ) from error


def bounded(content: str, name: str, most: int = MAX_PROMPT) -> str:
    """``content``; SettingsError where it has more characters than are read."""
    if len(content) > most:
        raise SettingsError(
            f"its {name:.60} has {len(content):,} characters, more than the {most:,} that are read."
        )
    return content


def _short(error: ValueError) -> str:
    return str(error).partition(";")[0][:100]


def is_json(content: str) -> bool:
    """Whether ``content`` begins as a JSON object."""
    return content.lstrip()[:1] == "{"


def mapping(value: object, field_name: str) -> Mapping[str, object]:
    """``value``, which must be a JSON object; an empty one for None."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"its {field_name} is {_kind(value)}, no JSON object.")
    return value


def text(value: object, field_name: str) -> str:
    """``value``, which must be text, without spaces at its ends; none for None."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SettingsError(f"its {field_name} is {_kind(value)}, no text.")
    return cleaned(bounded(value, field_name))


def cleaned(value: str) -> str:
    """``value`` in whole characters: halves of emoji joined or replaced, zero bytes left out."""
    whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "").strip()


def whole_number(value: object, field_name: str) -> int | None:
    """``value`` as a whole number from 0; None for none, and for -1, which stands for random.

    Raises:
        SettingsError: It is something else, or has more digits than a seed has.
    """
    is_written = isinstance(value, str | int | float) and not isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= 10**MAX_SEED_DIGITS:
        number = "9" * (MAX_SEED_DIGITS + 1)  # str() refuses thousands of digits
    else:
        number = str(value).strip().removesuffix(".0") if is_written else ""
    if value is None or (is_written and number in ("", "-1", "None")):
        return None
    if not (number.isascii() and number.isdigit()):
        shown = f"{value!r:.40}" if is_written else _kind(value)
        raise SettingsError(f"its {field_name} is {shown}, no whole number from 0.")
    if len(number) > MAX_SEED_DIGITS:
        raise SettingsError(
            f"its {field_name} has more than {MAX_SEED_DIGITS} digits: no tool draws with such a "
            "number."
        )
    return int(number)


def plain_settings(facts: Mapping[str, object], *taken: str) -> dict[str, object]:
    """``facts`` without what is ``taken`` and what says nothing."""
    return {
        key: value
        for key, value in facts.items()
        if key not in taken and value not in (None, "", [], {})
    }


def _kind(value: object) -> str:
    names = {dict: "a JSON object", list: "a list", bool: "true or false", str: "text"}
    return names.get(type(value), "a number")
