"""The texts of a picture: PNG's chunks, EXIF's and XMP's comments, and what hides in its pixels."""

import re
import zlib
from xml.etree import ElementTree

from PIL import ExifTags, Image
from PIL.PngImagePlugin import iTXt

from storyboard.errors import SettingsError
from storyboard.other_tools.infotext import MAX_TEXT

USER_COMMENT = "UserComment"  # EXIF's, and the name under which it stands among the texts
MAX_XMP = 2**20  # characters
COMMENT_PREFIX = 8  # bytes that name its encoding
# ComfyUI's WebP nodes write "prompt:{...}" and "workflow:{...}" into tags that hold text
NAMED = re.compile(r"(prompt|workflow|parameters):\s*", re.IGNORECASE)
# https://github.com/ashen-sensored/sd_webui_stealth_pnginfo
STEALTH = {
    b"stealth_pnginfo": ("alpha", False),
    b"stealth_pngcomp": ("alpha", True),
    b"stealth_rgbinfo": ("rgb", False),
    b"stealth_rgbcomp": ("rgb", True),
}
STEALTH_HEADER = 15 + 4  # bytes of the name and of the length


def of(image: Image.Image) -> dict[str, str]:
    """All texts of a picture that is loaded, by name.

    PNG's own come first; EXIF's user comment stands under ``UserComment``, what hides in the pixels
    under ``stealth``.
    """
    texts = {name: _utf8(text) for name, text in getattr(image, "text", {}).items()}
    for name, text in _of_exif(image).items():
        texts.setdefault(name, text)
    if isinstance(xmp := image.info.get("xmp"), bytes):
        texts.setdefault("xmp", _decoded(xmp))
    if isinstance(comment := image.info.get("comment"), bytes):  # JPEG's own
        texts.setdefault("Comment", _decoded(comment))
    if not any(text.strip() for text in texts.values()):
        hidden = _hidden(image)
        if hidden:
            texts["stealth"] = hidden
    return texts


def _utf8(text: str) -> str:
    """``text`` of a tEXt chunk, which is Latin-1 by the standard, where a tool wrote UTF-8."""
    if isinstance(text, iTXt):
        return str(text)
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _of_exif(image: Image.Image) -> dict[str, str]:
    try:
        exif = image.getexif()
        values = [*exif.items(), *exif.get_ifd(ExifTags.IFD.Exif).items()]
    # whatever Pillow raises on damaged EXIF, which is no reason to refuse the picture's other texts
    except Exception:
        return {}
    texts: dict[str, str] = {}
    for tag, value in values:
        if tag == ExifTags.Base.UserComment and isinstance(value, bytes | str):
            texts[USER_COMMENT] = value if isinstance(value, str) else user_comment(value)
        elif isinstance(value, str) and (match := NAMED.match(value)):
            texts[match[1].lower()] = value[match.end() :].rstrip("\0")
        elif tag == ExifTags.Base.Software and isinstance(value, str):
            texts["Software"] = value
    return texts


def user_comment(value: bytes) -> str:
    """EXIF's UserComment: eight bytes that name its encoding, then the text."""
    prefix, content = value[:COMMENT_PREFIX], value[COMMENT_PREFIX:]
    if prefix == b"UNICODE\0":
        return _utf16(content)
    if prefix in (b"ASCII\0\0\0", b"\0" * COMMENT_PREFIX, b"JIS\0\0\0\0\0"):
        return _decoded(content)
    return _decoded(value)


def _utf16(content: bytes) -> str:
    """UTF-16 of either order of bytes: tools write both, whatever the file's own order is."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    content = content[: len(content) // 2 * 2]
    # Latin letters, which every such text has, have a zero as their higher byte
    order = "be" if content[::2].count(0) >= content[1::2].count(0) else "le"
    return content.decode(f"utf-16-{order}", "replace")


def _decoded(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeError:
        text = content.decode("latin-1")
    return text.strip("\0")


def of_xmp(content: str) -> str:
    """The user comment in an XMP packet; nothing where there is none, or it is damaged."""
    if len(content) > MAX_XMP or "<!DOCTYPE" in content or "<!ENTITY" in content:
        return ""  # entities may grow without end
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return ""
    for element in root.iter():
        if element.tag.endswith("}UserComment"):
            return "".join(element.itertext()).strip()
    return ""


def _hidden(image: Image.Image) -> str:
    """Text in the lowest bits of the alpha channel, or of red, green and blue, by columns."""
    import numpy as np

    if image.mode not in ("RGBA", "RGB"):
        return ""
    pixels = np.asarray(image)
    sources = {"rgb": pixels[..., :3]}
    if image.mode == "RGBA":
        sources["alpha"] = pixels[..., 3:]
    for channel, values in sources.items():
        columns = -(-STEALTH_HEADER * 8 // (values.shape[0] * values.shape[2]))
        head = _bits(values[:, :columns])[:STEALTH_HEADER]
        where, packed = STEALTH.get(head[:15], ("", False))
        if where == channel:
            length = int.from_bytes(head[15:], "big") // 8
            content = _bits(values)[STEALTH_HEADER : STEALTH_HEADER + length]
            if len(content) < length:
                raise _cut_off()
            return _unpacked(content) if packed else _decoded(content)
    return ""


def _bits(values) -> bytes:
    """The lowest bits of ``values`` (rows, columns, channels), column after column, as bytes."""
    import numpy as np

    return np.packbits((values & 1).transpose(1, 0, 2).ravel()).tobytes()


def _unpacked(content: bytes) -> str:
    """Text of a gzip stream, no longer than is read.

    Raises:
        SettingsError: It is damaged, cut off, or unpacks to more than is read.
    """
    try:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        text = stream.decompress(content, MAX_TEXT)
    except zlib.error as error:
        raise _cut_off() from error
    if not stream.eof:
        raise _cut_off()
    return _decoded(text)


def _cut_off() -> SettingsError:
    return SettingsError(
        "the text in its pixels (stealth PNG info) is damaged, cut off or longer than is read: "
        "give a picture as it was saved."
    )
