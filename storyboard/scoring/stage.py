"""Stage 5, score: do the pictures show their prompts, hold together, have the training set's style; are they beautiful?"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from storyboard import artifacts
from storyboard.data.captions import Captions
from storyboard.errors import LoraError, ScoringError, SettingsError
from storyboard.lora.file import Lora
from storyboard.models import memory
from storyboard.models.run import check
from storyboard.prompts import plain
from storyboard.rendering.stage import Pictures, render
from storyboard.settings import Settings
from storyboard.story import Story

TITLES = {
    "match": "picture-text match 图文匹配 %",
    "coherence": "coherence 连贯 0-100",
    "style": "style distance 画风距离",
    "aesthetics": "aesthetics 美学",
    "pickscore": "PickScore 偏好",
    "hps": "HPS v2 偏好",
}
MOST = 300  # training pictures that style and coherence are measured against
SCALE = 100.0  # of the style distance, for numbers that a person can read
TOLERANCE = {"match": 5.0, "style": 1.0}  # differences that are chance in a handful of panels


@dataclass(frozen=True)
class Measure:
    """One number, None where it cannot be had, and what it says to a person."""

    value: float | None
    reading: str

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.1f}"


@dataclass(frozen=True)
class Scores:
    """What was measured of one or more sets of pictures.

    Attributes:
        sets: name of the set -> measure -> Measure, the measures being those of TITLES; the last two only where they were asked for.
        about: The set whose readings are shown; the first if it is not named.
    """

    sets: dict[str, dict[str, Measure]]
    about: str | None = None

    def value(self, measure: str, name: str = "LoRA") -> float | None:
        """A single number, such as ``scores.value("match")``."""
        return self.sets[name][measure].value

    def _rows(self) -> list[list[str]]:
        """A measure a row: its title, each set's number, the reading of one."""
        measured = next(iter(self.sets.values()))
        return [
            [title, *(str(one[measure]) for one in self.sets.values()), self._reading(measure)]
            for measure, title in TITLES.items()
            if measure in measured
        ]

    def _reading(self, measure: str) -> str:
        about = self.about or next(iter(self.sets))
        one, base = self.sets[about][measure], self.sets.get("base", {}).get(measure)
        if (
            measure != "style"
            or about == "base"
            or base is None
            or None in (one.value, base.value)
            or base.value <= 0
        ):
            return one.reading
        share = round(100 * (1 - one.value / base.value))
        return f"{f'{share} % of the distance of the base is gone' if share > 0 else 'no nearer than the base'}; {one.reading}"

    def __str__(self) -> str:
        rows = [["", *self.sets, ""], *self._rows()]
        widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        return "\n".join(
            "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths))
            + f"  {row[-1]}"
            for row in rows
        )

    def _repr_html_(self) -> str:
        from storyboard import show

        return show.table("Scores 评分", ["", *self.sets, "what it says 说明"], self._rows())


@dataclass(frozen=True)
class Choice:
    """The checkpoint that ``best`` takes.

    Attributes:
        lora: What to give to ``render``.
        scores: Of each checkpoint.
        reason: Why this one, in a sentence.
    """

    lora: Lora
    scores: Scores
    reason: str

    def __str__(self) -> str:
        return f"{self.scores}\n{self.reason}"

    def _repr_html_(self) -> str:
        from storyboard import show

        return self.scores._repr_html_() + show.table("", [self.reason], [])


def score(
    pictures: Pictures,
    settings: Settings,
    captions: Captions,
    base: Pictures | None = None,
    preference: bool = False,
) -> Scores:
    """Measure ``pictures`` and, beside them, those of the base alone; ``captions`` is what the LoRA was trained on.

    Match is the percentage of the attributes named in the prompts that are seen (``mini``) or a CLIP score; coherence
    the mean cosine of every two pictures' features; style the kernel distance to the training set (measures.py).
    Numbers lie in ``<output>/scores`` and are computed once. What has no weights to measure it is said in its row.

    Args:
        preference: Also PickScore and HPS v2 (3.9 GB to fetch for each); not for ``mini``.

    Raises:
        ScoringError: A picture is gone.
    """
    judge = _judge(settings, preference)
    sets = {_name(pictures): _measured(pictures, settings, captions, judge)}
    if base is not None:
        sets["base"] = _measured(base, settings, captions, judge)
    found = Scores(sets)
    _tell(found)
    return found


def best(
    lora: Lora, story: Story, settings: Settings, captions: Captions, panels: int = 4
) -> Choice:
    """Choose among the checkpoints that training kept, by the first ``panels`` of ``story`` drawn with each.

    Those that match their prompts about as well as the best are looked at, of these those about as near in style to the
    training set as the nearest, and of these the best match is taken; of equals the last. "About" is TOLERANCE.

    Raises:
        LoraError: Training kept no checkpoints.
        ScoringError: Neither match nor style can be measured.
        RenderingError, ResourceError: As ``render``.
    """
    if not isinstance(lora, Lora) or len(lora.checkpoints) < 2:
        raise LoraError(
            f"{getattr(lora, 'path', lora)} has no checkpoints beside it: delete its folder and run the training cell again, or go on with it as it is."
        )
    if not isinstance(panels, int) or panels < 1:
        raise SettingsError(f"panels={panels!r} must be a whole number from 1 on.")
    judge = _judge(settings)
    some = copy.copy(story)
    some.panels = story.panels[:panels]
    steps = [
        *(int(path.stem.removeprefix("step-")) for path in lora.checkpoints[:-1]),
        len(lora.losses),
    ]
    sets, candidates = {}, {}
    for step, path in zip(steps, lora.checkpoints):
        pictures = render(some, settings, path, settings.folder / "scores" / f"step-{step:06d}")
        sets[f"step {step}"] = _measured(pictures, settings, captions, judge)
        candidates[f"step {step}"] = (
            lora
            if path == lora.path
            else replace(
                lora,
                path=path,
                digest=artifacts.digest_of_file(path),
                losses=lora.losses[:step],
                previews=[],
            )
        )
    chosen, reason = _choose(sets)
    found = Choice(candidates[chosen], Scores(sets, chosen), reason)
    _tell(found)
    return found


def _choose(sets: dict[str, dict[str, Measure]]) -> tuple[str, str]:
    """The best set's name, and why; of equals the last."""
    names = list(sets)
    known = lambda measure: all(one[measure].value is not None for one in sets.values())
    if not known("match") and not known("style"):
        raise ScoringError(
            f"The checkpoints cannot be told apart, neither match nor style can be measured ({sets[names[0]]['style'].reading}): go on with the last."
        )
    near = names
    if known("match"):
        highest = max(one["match"].value for one in sets.values())
        near = [name for name in near if sets[name]["match"].value >= highest - TOLERANCE["match"]]
    if known("style"):
        least = min(sets[name]["style"].value for name in near)
        near = [name for name in near if sets[name]["style"].value <= least + TOLERANCE["style"]]
    chosen = max(reversed(near), key=lambda name: sets[name]["match"].value or 0.0)
    judged = " and ".join(
        title for measure, title in (("match", "match"), ("style", "style")) if known(measure)
    )
    return (
        chosen,
        f"{chosen} is the best by {judged} · 综合得分最好的是第 {chosen.removeprefix('step ')} 步",
    )


def _judge(settings: Settings, preference: bool = False):
    base = check(settings)
    if base.judge == "mini":
        from storyboard.scoring import mini

        return mini.Judge()
    from storyboard.scoring import metrics

    return metrics.Judge(memory.plan(base, settings).device, preference)


def _name(pictures: Pictures) -> str:
    return "LoRA" if pictures.panels[0]["lora"] else "base"


def _measured(
    pictures: Pictures, settings: Settings, captions: Captions, judge
) -> dict[str, Measure]:
    """The measures of one set, from ``<output>/scores/<its folder's name>.json`` if they are there."""
    if gone := [path for path in pictures.paths if not path.is_file()]:
        raise ScoringError(f"{gone[0]} is gone: run the cell that draws it again.")
    prompts = [plain(panel["prompt"]) for panel in pictures.panels]  # weights are not words
    mark = artifacts.fingerprint(
        stage="score",
        judge=judge.mark(),
        captions=captions.digest,
        panels=[
            [prompt, artifacts.digest_of_file(path)]
            for prompt, path in zip(prompts, pictures.paths)
        ],
    )
    kept = settings.folder / "scores" / f"{pictures.folder.name}.json"
    if found := _kept(kept, mark):
        return found
    measures = {
        "match": judge.match(pictures.paths, prompts),
        "coherence": _coherence(pictures.paths, settings, captions, judge),
        "style": _style(pictures.paths, settings, captions, judge),
        "aesthetics": judge.aesthetics(
            pictures.paths, lambda: _features("style", pictures.paths, settings, captions, judge)
        ),
    } | judge.preference(pictures.paths, prompts)
    if judge.lasting:
        kept.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(
            kept,
            {
                "fingerprint": mark,
                "measures": {name: asdict(measure) for name, measure in measures.items()},
            },
        )
    return measures


def _kept(path: Path, mark: str) -> dict[str, Measure] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return (
        {measure: Measure(**said) for measure, said in found["measures"].items()}
        if found.get("fingerprint") == mark
        else None
    )


def _coherence(paths: Sequence[Path], settings: Settings, captions: Captions, judge) -> Measure:
    from storyboard.scoring import measures

    if len(paths) < 2:
        return Measure(None, "a single picture has nothing to agree with · 只有一张图，无从比较")
    features, reference = _features("coherence", paths, settings, captions, judge)
    if isinstance(features, str):
        return Measure(None, features)
    usual = measures.coherence(reference)
    return Measure(
        measures.coherence(features),
        f"how alike the pictures are; any of the training set have {usual:.0f} · 各格之间的相似度，训练集自身为 {usual:.0f}",
    )


def _style(paths: Sequence[Path], settings: Settings, captions: Captions, judge) -> Measure:
    from storyboard.scoring import measures

    if min(len(paths), len(captions) - len(paths)) < 2:
        return Measure(
            None,
            "needs two pictures, and a training set of some more · 至少要两张图，训练集要再多几张",
        )
    features, reference = _features("style", paths, settings, captions, judge)
    if isinstance(features, str):
        return Measure(None, features)
    usual = SCALE * measures.chance(reference, len(paths))
    return Measure(
        SCALE * measures.kid(features, reference),
        f"0 is the training set itself, up to {usual:.1f} is chance; one heroine in all panels adds some · 0 即训练集画风，{usual:.1f} 以内属偶然；全篇同一人物会略高",
    )


def _features(measure: str, paths: Sequence[Path], settings: Settings, captions: Captions, judge):
    """Those of the pictures and of the training set, at most MOST pictures evenly spread, kept in ``<output>/scores``; or why not."""
    from safetensors.torch import load_file, save

    kind = judge.features_for[measure]
    features = judge.features(kind, paths)
    mark = artifacts.fingerprint(
        stage="reference", judge=judge.mark(), captions=captions.digest, most=MOST
    )
    kept = settings.folder / "scores" / f"training-set-{kind}-{mark[:16]}.safetensors"
    if isinstance(features, str) or kept.is_file():
        return features, None if isinstance(features, str) else load_file(kept)["features"]
    count = min(MOST, len(captions))
    reference = judge.features(
        kind,
        [captions.path(captions.rows[place * len(captions) // count]) for place in range(count)],
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    for old in kept.parent.glob(f"training-set-{kind}-*"):
        old.unlink()
    artifacts.write_atomically(kept, save({"features": reference.contiguous()}))
    return features, reference


def _tell(found: Scores | Choice) -> None:
    from storyboard import show

    show.tell(found)


def _width(text: str) -> int:
    """Columns that a terminal gives to ``text``: two for each Chinese character."""
    return sum(2 if "\u2e80" <= letter <= "\uffef" else 1 for letter in text)
