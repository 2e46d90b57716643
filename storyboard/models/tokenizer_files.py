"""The files of a tokenizer, checked before a library reads them."""

from pathlib import Path

from storyboard.errors import BaseError, brief, reason
from storyboard.models import configs

VOCABULARIES = ("tokenizer.model", "vocab.json", "tokenizer.json")
OBJECTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
MERGES = "merges.txt"
MOST_BYTES = 32 * 2**20
MOST_TOKENS = configs.LARGEST
# of a vocabulary of byte pairs: each byte, inside a word and at its end, and special tokens
UNMERGED = 512 + 64
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")

_checked: dict[Path, tuple] = {}  # folder -> sizes and times of its files when they were whole


def check(folder: Path, title: str, remedy: str) -> None:
    """Raise BaseError unless the tokenizer in ``folder`` can be read whole.

    Args:
        title: What it belongs to, for the message.
    """
    present = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not present:  # an empty folder would pass for a tokenizer of two tokens
        raise BaseError(
            f"{title} lacks a vocabulary in {folder} ({', '.join(VOCABULARIES)}): {remedy}."
        )

    state = _state(folder)
    if _checked.get(folder) == state:
        return
    for name in OBJECTS:
        if (folder / name).is_file():
            content = configs.read(folder / name, remedy)
            if name != "tokenizer.json":
                _check_tokens(folder / name, content, remedy)
    if "vocab.json" in present:
        _check_pairs(folder, "tokenizer.json" in present, remedy)
    if "tokenizer.model" in present:
        _check_sentencepiece(folder / "tokenizer.model", remedy)
    _checked[folder] = state


def _state(folder: Path) -> tuple:
    files = [folder / name for name in (*VOCABULARIES, *OBJECTS, MERGES)]
    facts = [(path, path.stat()) for path in files if path.is_file()]
    return tuple((path.name, each.st_size, each.st_mtime_ns) for path, each in facts)


def _check_tokens(path: Path, content: dict, remedy: str) -> None:
    """Raise BaseError unless special tokens are texts, and the length a number."""
    length = content.get("model_max_length", 1)
    if type(length) is not int or length < 1:
        raise BaseError(
            f"{path} has model_max_length={brief(length)}, which is no number of tokens: {remedy}."
        )
    for key in SPECIAL:
        token = content.get(key)
        if isinstance(token, dict):
            token = token.get("content")
        if not isinstance(token, str | None):
            raise BaseError(f"{path} has {key}={brief(content[key])}, which is no text: {remedy}.")


def _check_pairs(folder: Path, has_whole: bool, remedy: str) -> None:
    """Check a vocabulary of byte pairs and the merges that lead to it.

    Args:
        has_whole: Whether ``tokenizer.json`` is there, which holds the merges as well.
    """
    path = folder / "vocab.json"
    ids = configs.read(path, remedy)
    if not ids or not all(type(each) is int and 0 <= each < MOST_TOKENS for each in ids.values()):
        raise BaseError(f"{path} does not give each token a number from 0: {remedy}.")
    if len(set(ids.values())) < len(ids):
        raise BaseError(f"{path} gives two tokens one number: {remedy}.")

    path = folder / MERGES
    if not path.is_file():
        if has_whole:
            return
        raise BaseError(f"{path} is missing, without which vocab.json spells each word: {remedy}.")
    merges = [line.split(" ") for line in _lines(path, remedy) if line.strip()]
    if merges and merges[0][0].startswith("#version"):
        merges = merges[1:]
    for number, pair in enumerate(merges, 1):
        # each half and the whole are tokens
        if len(pair) != 2 or not {*pair, "".join(pair)} <= ids.keys():
            raise BaseError(
                f"{path} has {brief(' '.join(pair))} as merge {number}, which vocab.json does not "
                f"know: {remedy}."
            )
    if len(merges) + UNMERGED < len(ids):
        raise BaseError(
            f"{path} has {len(merges):,} merges where the {len(ids):,} tokens of vocab.json need "
            f"more: {remedy}."
        )


def _lines(path: Path, remedy: str) -> list[str]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BaseError(f"{path} is over {MOST_BYTES / 2**20:.0f} MB: {remedy}.")
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"{path} cannot be read ({reason(error)}): {remedy}.") from error


def _check_sentencepiece(path: Path, remedy: str) -> None:
    from sentencepiece import SentencePieceProcessor

    size = path.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise BaseError(f"{path} is {size:,} bytes long, which is no vocabulary: {remedy}.")
    try:
        SentencePieceProcessor(model_proto=path.read_bytes()).vocab_size()
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise BaseError(f"{path} is no SentencePiece model ({reason(error)}): {remedy}.") from error
