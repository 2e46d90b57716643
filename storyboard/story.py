"""The story: panels, each with a prompt, a negative prompt and a seed of its own."""

import json
import numbers
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

from storyboard import png, prompts
from storyboard.errors import SettingsError, brief
from storyboard.records import TEXTS, PanelRecord
from storyboard.reference import Reference

MAX_PANELS = 64
LARGEST_SEED = 2**63 - 1  # of a panel
MAX_SEED = LARGEST_SEED - MAX_PANELS  # of a story: a panel without a seed adds its index
PARTS = ("prompt", "subject", "details", "modifiers", "style", "artist")


def join(parts: Iterable[str]) -> str:
    """A prompt of its parts, the empty ones left out; a single one as it stands.

    They are joined by ， if any is Chinese, else by a comma and a space.
    """
    filled = [part.strip() for part in parts if part.strip()]
    if len(filled) == 1:
        return filled[0]
    is_chinese = re.search(r"[\u4e00-\u9fff]", "".join(filled))
    return ("，" if is_chinese else ", ").join(part.strip("，, ") for part in filled)


@dataclass(frozen=True)
class ResolvedPanel:
    """A panel with what its story shares, and with its seed."""

    prompt: str
    negative_prompt: str
    seed: int


@dataclass(frozen=True)
class Panel:
    """One picture of the story.

    Prompts are written as in A1111: ``(text:1.2)``, ``(text)``, ``[text]``
    (``storyboard.prompts``).

    Args:
        prompt: What to draw (正向提示词), Chinese or English.
        negative_prompt: What to keep out (反向提示词); None takes the story's.
        seed: Of this panel's noise; None adds the panel's index to the story's seed.
        reference: A picture that this one follows, or its path for its edges (参考图).
        subject, details, modifiers, style, artist: The parts of a prompt (主体, 细节, 修饰词, 风格,
            艺术家), with the plain string or instead of it; what is given is joined in this order.

    Raises:
        SettingsError: Nothing to draw, a bracket without its partner, a seed out of range.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    seed: int | None = None
    reference: Reference | str | None = None
    subject: str = field(default="", kw_only=True)
    details: str = field(default="", kw_only=True)
    modifiers: str = field(default="", kw_only=True)
    style: str = field(default="", kw_only=True)
    artist: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        for name in PARTS:
            if not isinstance(getattr(self, name), str):
                raise SettingsError(
                    f"Panel({name}={brief(getattr(self, name))}) must be text"
                    + ("." if name == "prompt" else ", or be left out.")
                )
        if not prompts.plain(self.text).strip():
            raise SettingsError(
                f"Panel(prompt={brief(self.prompt)}) has nothing to draw: "
                "write what the picture shows."
            )
        self._check_seed()
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise SettingsError(
                f"Panel(negative_prompt={brief(self.negative_prompt)}) must be text, "
                "or be left out."
            )
        if isinstance(self.reference, str | Path):
            object.__setattr__(self, "reference", Reference(self.reference))
        if not isinstance(self.reference, Reference | None):
            raise SettingsError(
                f"Panel(reference={brief(self.reference)}) must be a Reference, "
                "the path of a picture, or be left out."
            )
        prompts.check(self.negative_prompt or "")

    def _check_seed(self) -> None:
        if self.seed is None:
            return
        # NumPy's whole numbers too
        is_whole = isinstance(self.seed, numbers.Integral) and not isinstance(self.seed, bool)
        if is_whole:
            object.__setattr__(self, "seed", int(self.seed))
        if not is_whole or not 0 <= self.seed <= LARGEST_SEED:
            raise SettingsError(
                f"Panel(seed={brief(self.seed)}) must be a whole number from 0 to {LARGEST_SEED}, "
                "or be left out."
            )

    @property
    def text(self) -> str:
        """The prompt with its parts."""
        return join(getattr(self, name) for name in PARTS)


class Story(Sequence[Panel]):
    """One to sixty-four panels; a story has eight by custom.

    Args:
        panels: Panels, or plain strings for panels that have a prompt alone.
        negative_prompt: For every panel that names none of its own.
        common: What all panels share, such as 紫色短发女孩; stands before each prompt.
        trigger: The word that the LoRA was taught its style by, such as 二次元; stands before all.

    Raises:
        SettingsError: No panel, more than sixty-four, something that is neither a Panel nor a
            string, or a bracket without its partner.
    """

    def __init__(
        self,
        panels: Iterable[Panel | str],
        negative_prompt: str = "",
        *,
        common: str = "",
        trigger: str = "",
    ) -> None:
        if isinstance(panels, str | bytes | dict) or not isinstance(panels, Iterable):
            raise SettingsError(
                f"Story takes a list of panels, not {brief(panels)}: "
                'write Story([Panel("..."), ...]).'
            )
        self.panels = tuple(
            Panel(panel) if isinstance(panel, str) else panel
            for panel in islice(panels, MAX_PANELS + 1)
        )
        for number, panel in enumerate(self.panels, 1):
            if not isinstance(panel, Panel):
                raise SettingsError(
                    f"Panel {number} of the story is {type(panel).__name__}: "
                    'write Panel("...") or a plain string.'
                )
        if not 1 <= len(self.panels) <= MAX_PANELS:
            raise SettingsError(
                f"The story has {'no' if not self.panels else f'over {MAX_PANELS}'} panels: "
                f"give it 1 to {MAX_PANELS} (the contest asks for 8)."
            )
        texts = {"negative_prompt": negative_prompt, "common": common, "trigger": trigger}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise SettingsError(
                    f"Story({name}={brief(text)}) must be text; leave it out for none."
                )
            prompts.check(text)
        self.negative_prompt = negative_prompt
        self.common = common
        self.trigger = trigger
        self.settings: tuple[dict, ...] = ()  # of pictures read back

    @classmethod
    def from_png(cls, paths: Path | str | Iterable[Path | str]) -> "Story":
        """The story that pictures say they were made from, in our record or in another tool's text.

        Read are A1111 and what writes as it does, ComfyUI, Fooocus, InvokeAI, NovelAI, SwarmUI and
        others, in PNG, JPEG, WebP and AVIF. The attribute ``settings`` holds what else each says
        (steps, sampler, size and so on), by its name there; for another tool's pictures also
        ``tool``, and ``notes`` of what a story cannot do as it did, which are printed as well.

        Raises:
            SettingsError: A picture cannot be read or names no prompt; names the file.
        """
        panels, settings = [], []
        for path in [paths] if isinstance(paths, Path | str) else paths:
            panel, facts = _read_back(Path(path))
            panels.append(panel)
            settings.append(facts)
        story = cls(panels)
        story.settings = tuple(settings)
        return story

    def __getitem__(self, index):
        return self.panels[index]

    def __len__(self) -> int:
        return len(self.panels)

    def code(self) -> str:
        """The Python that makes this story, to be copied into a cell."""
        lines = ["story = Story([", *(f"    {_call(panel)}," for panel in self.panels)]
        names = ("negative_prompt", "common", "trigger")
        shared = _arguments(self, [name for name in names if getattr(self, name)])
        return "\n".join([*lines, f"]{''.join(f', {each}' for each in shared)})"])

    def plain(self, seed: int) -> "Story":
        """The story with everything filled in, as ``resolved``, and without references."""
        panels = [
            Panel(each.prompt, each.negative_prompt, each.seed) for each in self.resolved(seed)
        ]
        return Story(panels)

    def resolved(self, seed: int) -> list[ResolvedPanel]:
        """Each panel with what the story shares and its seed filled in.

        Args:
            seed: Of the story; a panel without a seed of its own adds its index.
        """
        return [
            ResolvedPanel(
                prompt=join([self.trigger, self.common, panel.text]),
                negative_prompt=(
                    self.negative_prompt if panel.negative_prompt is None else panel.negative_prompt
                ).strip(),
                seed=seed + index if panel.seed is None else panel.seed,
            )
            for index, panel in enumerate(self.panels)
        ]


def _call(value: Panel | Reference) -> str:
    """The call that makes ``value``, with what is not left out."""
    first, *others = fields(value)
    given = [each.name for each in others if getattr(value, each.name) != each.default]
    arguments = [_literal(getattr(value, first.name)), *_arguments(value, given)]
    return f"{type(value).__name__}({', '.join(arguments)})"


def _arguments(value: object, names: Iterable[str]) -> list[str]:
    """Named arguments of a call."""
    return [f"{name}={_literal(getattr(value, name))}" for name in names]


def _literal(value: object) -> str:
    if isinstance(value, Reference):
        return _call(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    return repr(value)


def _read_back(path: Path) -> tuple[Panel, dict]:
    """The panel that a picture says it was made from, and what else it says."""
    content = png.read(path)
    seed, notes = content.seed, []
    if isinstance(content, PanelRecord):
        record = content.to_json()
        facts = {key: record[key] for key in record.keys() - {*TEXTS, "seed"}}
    else:
        facts = {**content.settings, "tool": content.tool}
        notes = list(content.notes)
        if seed is not None and seed > LARGEST_SEED:
            notes.append(f"its seed {seed} is above {LARGEST_SEED}: the panel takes the story's")
            facts["seed"], seed = seed, None
    try:
        panel = Panel(content.prompt, content.negative_prompt, seed)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    if notes:
        facts["notes"] = notes
        for note in notes:
            print(f"{path.name}: {note}")
    return panel, facts
