"""Prior preservation: pictures that the base itself draws, so that a LoRA keeps what it knows.

DreamBooth's class pictures (https://arxiv.org/abs/2208.12242, section 3.2), here of varied places,
things, hair and clothes instead of one class.
"""

import gc
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from storyboard import artifacts, disks, vocabulary
from storyboard.data.captions import CaptionRow, Captions, digest_of, write_rows
from storyboard.errors import DatasetError, RenderingError, TrainingError
from storyboard.models.run import Run
from storyboard.rendering.panels import panel_records
from storyboard.rendering.renderer import Renderer
from storyboard.story import MAX_PANELS, MAX_SEED, Panel, Story

FOLDER = "prior"  # in <output>/cache
WITHOUT_THING = 4  # beside so many different things, that many pictures without one
# the words of its own styles; the last one of the vocabulary no part of mini has seen
STYLES = tuple(words for name, words in vocabulary.STYLE.items() if name != "lorelei")


def draw(run: Run, captions: Captions, count: int) -> Captions:
    """``count`` pictures that the base of ``run`` draws, from ``<output>/cache/prior`` if there.

    They depend on seed, resolution and base; steps and guidance are the base's own, so that other
    settings of drawing do not train anew.

    Args:
        captions: Of the training set; words of style in them are not used.

    Raises:
        TrainingError: One of the pictures is blank or not finite.
        ResourceError: As ``render``.
    """
    own = replace(
        run,
        num_inference_steps=run.base.num_inference_steps,
        guidance_scale=run.base.guidance_scale,
        guidance_end=run.base.guidance_end,
    )
    texts = prompts(run, [row.text for row in captions.rows], count)
    rng = random.Random(f"{run.seed}-prior-noise")
    panels = [Panel(text, seed=rng.randrange(MAX_SEED)) for text in texts]
    records = [
        record
        for start in range(0, count, MAX_PANELS)
        for record in panel_records(own, Story(panels[start : start + MAX_PANELS]))
    ]

    target = run.folder / "cache" / FOLDER
    fingerprint = artifacts.fingerprint(
        stage="prior", panels=[record.fingerprint() for record in records]
    )
    if artifacts.finished(target, fingerprint) and (kept := _kept(target)):
        return kept

    print(f"train: {count} pictures are drawn of what {run.base.name} knows", flush=True)
    with artifacts.building(target) as folder:
        renderer = Renderer(own)
        try:
            for drawing in renderer.draw(records):
                path = folder / _file(drawing.index)
                with disks.writing(path):
                    drawing.image.save(path)
        except RenderingError as error:
            raise TrainingError(
                f"{run.base.name} cannot draw the pictures that prior_loss_weight="
                f"{run.prior_loss_weight:g} asks for at resolution={run.resolution}: set "
                "prior_loss_weight to 0, or a larger resolution."
            ) from error
        del renderer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

        rows = [CaptionRow(str(i), text, _file(i)) for i, text in enumerate(texts)]
        write_rows(folder, rows)
        artifacts.write_manifest(folder, "prior", fingerprint, digest=digest_of(folder, rows))
    return Captions.load(target)


def prompts(run: Run, captions: Iterable[str], count: int) -> list[str]:
    """``count`` prompts in which places, things, hair, clothes and expressions are spread evenly.

    In English, and every other one in Chinese where the base reads it. For ``mini``, whose styles
    have names, each names one that no caption names.
    """
    rng = random.Random(f"{run.seed}-prior")
    said = "\n".join(captions).lower()
    styles: list[tuple[str, str]] = [("", "")]
    if run.base.judge == "mini":
        unsaid = [pair for pair in STYLES if not any(word in said for word in pair)]
        styles = unsaid or styles

    things = [*vocabulary.PROP.values(), *[([""], [""])] * WITHOUT_THING]
    columns = zip(
        _spread(styles, count, rng),
        _spread(list(vocabulary.PERSON.values()), count, rng),
        _spread(list(vocabulary.LENGTH.values()), count, rng),
        _spread(list(vocabulary.HAIR.values()), count, rng),
        _spread(list(vocabulary.EXPRESSION.values()), count, rng),
        _spread(list(vocabulary.COLORS.values()), count, rng),
        _spread(things, count, rng),
        _spread(list(vocabulary.SCENE.values()), count, rng),
        strict=True,
    )
    chinese = run.base.family.chinese
    return [_prompt(column, chinese and index % 2 == 0) for index, column in enumerate(columns)]


def _prompt(column: Sequence, chinese: bool) -> str:
    language = 0 if chinese else 1
    style, person, length, hair = (words[language] for words in column[:4])
    expression, thing, scene = (column[i][language][0] for i in (4, 6, 7))
    clothes = column[5][language]
    if chinese:
        phrases = [style, f"{hair}{length}{person}", expression, f"{clothes}衣服", thing, scene]
    else:
        described = f"a {person} with {length} {hair} hair"
        phrases = [style, described, expression, f"{clothes} clothes", thing, scene]
    return ("，" if chinese else ", ").join(phrase for phrase in phrases if phrase)


def _spread(values: Sequence, count: int, rng: random.Random) -> list:
    """``count`` of ``values``, each about as often as the others, in random order."""
    spread: list = []
    while len(spread) < count:
        spread += rng.sample(list(values), len(values))
    return spread[:count]


def _file(index: int) -> str:
    return f"{index:03}.png"


def _kept(folder: Path) -> Captions | None:
    """What was drawn before; None where that is damaged, to be drawn anew."""
    try:
        return Captions.load(folder)
    except DatasetError as error:
        print(f"train: {error}")
        return None
