"""All measures of one set of pictures, computed once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from storyboard import artifacts
from storyboard.data.captions import Captions
from storyboard.errors import ScoringError
from storyboard.prompts import plain
from storyboard.rendering.pictures import Pictures
from storyboard.scoring import crispness, feature_cache, feature_statistics
from storyboard.scoring.judge import FeaturePair, Judge
from storyboard.scoring.scores import Measure, Unmeasurable
from storyboard.seals import is_sealed, sealed

SCALE = 100.0  # of the style distance, for numbers that a person can read


def measure(
    pictures: Pictures, captions: Captions, judge: Judge, folder: Path
) -> dict[str, Measure]:
    """The measures of ``pictures`` by name, from ``folder`` if they are there.

    Raises:
        ScoringError: A picture is gone.
        RenderingError: Another one took its place.
    """
    for path in pictures.paths:
        if not path.is_file():
            raise ScoringError(f"{path} is gone: run the cell that draws it again.")
    pictures.check()

    prompts = [plain(panel.prompt) for panel in pictures.panels]  # without A1111's weights
    digests = [artifacts.digest_of_file(path) for path in pictures.paths]
    fingerprint = artifacts.fingerprint(
        stage="score",
        judge=judge.fingerprint_inputs(),
        crispness=crispness.fingerprint_inputs(),
        captions=captions.digest,
        panels=[list(panel) for panel in zip(prompts, digests, strict=True)],
    )
    file = folder / f"{pictures.folder.name}.json"
    measures = _read(file, fingerprint)
    if measures is not None:
        return measures

    measures = _computed(pictures, prompts, captions, judge, folder)
    if judge.is_complete:
        content = {name: asdict(measure) for name, measure in measures.items()}
        artifacts.write_json(file, sealed({"fingerprint": fingerprint, "measures": content}))
    return measures


def _read(file: Path, fingerprint: str) -> dict[str, Measure] | None:
    """The measures in ``file``; None where there are none of this fingerprint, or damaged ones."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if is_sealed(content):
            if content["fingerprint"] != fingerprint:
                return None
            return {name: Measure(**fields) for name, fields in content["measures"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        pass  # not UTF-8, not JSON, or of another form
    print(f"score: {file} is damaged, the pictures are measured again", flush=True)
    return None


def _computed(
    pictures: Pictures,
    prompts: Sequence[str],
    captions: Captions,
    judge: Judge,
    folder: Path,
) -> dict[str, Measure]:
    paths = pictures.paths

    def features(measure: str) -> FeaturePair:
        return feature_cache.features(measure, paths, captions, judge, folder)

    refusal = _refusal(captions, judge, folder)

    def judged(compute: Callable[[], Measure]) -> Measure:
        return refusal or _or_reason(compute)

    # what the base alone draws is in a hand that the judge knows, whatever the training set
    by_base = not pictures.panels[0].lora
    measures = {
        "match": judge.match(paths, prompts) if by_base or not refusal else refusal,
        "coherence": judged(lambda: _coherence(paths, features)),
        "style": judged(lambda: _style(paths, captions, features)),
        "crispness": _or_reason(lambda: _crispness(paths, captions)),
        "aesthetics": judged(lambda: judge.aesthetics(paths, lambda: features("style"))),
    }
    return measures | judge.preference(paths, prompts)


def _refusal(captions: Captions, judge: Judge, folder: Path) -> Measure | None:
    """No number and the reason, where the judge cannot judge pictures of this training set."""
    texts = [row.text for row in feature_cache.rows(captions)]
    kind = judge.feature_kinds["style"]
    reason = judge.refusal(
        texts, lambda: feature_cache.of_training_set(kind, captions, judge, folder)
    )
    return None if reason is None else Measure(None, reason)


def _or_reason(compute: Callable[[], Measure]) -> Measure:
    """What ``compute`` returns, or no number and the reason."""
    try:
        return compute()
    except Unmeasurable as reason:
        return Measure(None, str(reason))


def _coherence(paths: Sequence[Path], features: Callable[[str], FeaturePair]) -> Measure:
    if len(paths) < 2:
        raise Unmeasurable("a single picture has nothing to agree with · 只有一张图，无从比较")
    of_pictures, of_training_set = features("coherence")
    usual = feature_statistics.coherence(of_training_set)
    return Measure(
        feature_statistics.coherence(of_pictures),
        f"how alike the pictures are; any of the training set have {usual:.0f} "
        f"· 各格之间的相似度，训练集自身为 {usual:.0f}",
    )


def _style(
    paths: Sequence[Path], captions: Captions, features: Callable[[str], FeaturePair]
) -> Measure:
    if min(len(paths), len(captions) - len(paths)) < 2:
        raise Unmeasurable(
            "needs two pictures, and a training set of some more · 至少要两张图，训练集要再多几张"
        )
    of_pictures, of_training_set = features("style")
    usual = SCALE * feature_statistics.chance(of_training_set, len(paths))
    return Measure(
        SCALE * feature_statistics.kid(of_pictures, of_training_set),
        f"0 is the training set itself, up to {usual:.1f} is chance; one character in all panels "
        f"adds some · 0 即训练集画风，{usual:.1f} 以内属偶然；全篇同一人物会略高",
    )


def _crispness(paths: Sequence[Path], captions: Captions) -> Measure:
    pictures = [crispness.pixels(path) for path in paths]
    height, width = pictures[0].shape[1:]
    training_set = crispness.training_edges(
        [captions.path(row) for row in captions.rows], (width, height)
    )
    smudged = [crispness.edges(each).smudged(training_set.widest) for each in pictures]
    own = sum(training_set.smudged) / len(training_set.smudged)
    usual = crispness.chance(training_set.smudged, len(paths))

    worst = 1 + smudged.index(max(smudged))
    return Measure(
        sum(smudged) / len(smudged),
        "of the picture's area, where colours run together and lines blur; "
        f"{own:.1f} is the training set itself, up to {usual:.1f} is chance; most in panel {worst} "
        "· 颜色晕开、线条模糊之处占画面的比例；"
        f"{own:.1f} 即训练集自身，{usual:.1f} 以内属偶然；第 {worst} 格最多",
    )
