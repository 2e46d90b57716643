"""Data-Juicer operators that read pictures by the repository's own small networks.

Importing this module registers them and those of ``operators.py`` and ``near_duplicates.py``.
``dj-process`` takes this file by ``custom_operator_paths`` where this package can be imported. The
networks lie in ``models/``.

``image_caption_filter`` and ``image_style_filter`` compare pictures and captions by the attribute
classifier, which knows the drawings of ``mini`` alone. So they look at the whole set first: where
the classifier confirms too few of its captions, or is seldom sure of the style, it cannot read
these pictures, and all stay.
``image_text_line_filter`` looks at the whole set too: its network takes the fine lines of some art
for letters, and then finds them in many of its pictures.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from storyboard import vocabulary
from storyboard.data import near_duplicates  # noqa: F401  (registers its operator)
from storyboard.data.operators import row_picture

LEAST_NAMED = 3  # attributes in a caption: of fewer, any picture may have some by chance
# Probability of a style: nearly all pictures of styles that the classifier knows are above it, and
# one in seven of other hands (Big Heads, Miniavs), whose captions it confirms to 80 % by colours.
SURE = 0.8


@functools.cache
def _text_detector():
    from storyboard.models import text_detector

    return text_detector.load()


@functools.cache
def _classifier():
    from storyboard.models import classifier

    return classifier.load()


class SetFilter(Filter):
    """A filter that judges a row after a look at what was measured of all.

    Attributes:
        MEASURES: The statistics that it judges by.
        note: What it did not judge, and why; empty where it judged all.
    """

    MEASURES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.note = ""

    def look_at_set(self, statistics: Sequence[dict]) -> None:
        """Decide, by what was measured of all rows, how each is judged."""
        raise NotImplementedError

    def limits(self) -> dict[str, list[float | None]]:
        """The least and the largest value that it keeps of a statistic, as it judged this set."""
        return {}

    def run(self, dataset, *, exporter=None, tracer=None, reduce=True):
        """As ``dj-process`` calls it."""
        measured = super().run(dataset, exporter=exporter, tracer=tracer, reduce=False)
        self.look_at_set(measured[Fields.stats][:])
        return measured.filter(self.process) if reduce else measured


@OPERATORS.register_module("image_text_line_filter")
class ImageTextLineFilter(SetFilter):
    """Keeps pictures without a line of text: no watermark, no subtitle, no screen of a program.

    Args:
        max_text_line: Largest share of a straight line that letters fill, 0 to 1; the line is half
            as long as the picture's shorter side, anywhere and at any angle.
        max_pictures: Largest share of the set that may go so, 0 to 1: where it is more, the art's
            own lines may be taken for letters, and only pictures above ``max_doubtful`` go.
        max_doubtful: As ``max_text_line``, for such a set.
    """

    MEASURES = ("image_text_line",)

    def __init__(
        self,
        max_text_line: float = 0.55,
        max_pictures: float = 0.2,
        max_doubtful: float = 0.85,
        *args,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.max_text_line, self.max_pictures = max_text_line, max_pictures
        self.max_doubtful = max(max_text_line, max_doubtful)
        self.limit = 1.0  # all stay until the set has been looked at

    def look_at_set(self, statistics: Sequence[dict]) -> None:
        lines = [row["image_text_line"] for row in statistics]
        above = sum(line > self.max_text_line for line in lines)
        is_doubtful = above > self.max_pictures * len(lines)
        self.limit = self.max_doubtful if is_doubtful else self.max_text_line
        if is_doubtful:
            self.note = (
                f"finds text in {above} of {len(lines)} pictures, which may be fine lines of the "
                f"drawing: only those above {self.max_doubtful:g} go; look at the others"
            )

    def limits(self) -> dict[str, list[float | None]]:
        return {"image_text_line": [None, self.limit]}

    def compute_stats_single(self, sample, context=False):
        from storyboard.models import text_detector

        if "image_text_line" not in sample[Fields.stats]:
            pixels = text_detector.pixels_of(row_picture(self, sample, context))
            probabilities = text_detector.text_map(_text_detector(), pixels)
            sample[Fields.stats]["image_text_line"] = text_detector.text_line(probabilities)
        return sample

    def process_single(self, sample):
        return bool(sample[Fields.stats]["image_text_line"] <= self.limit)


class AttributeFilter(SetFilter):
    """A filter that compares captions with what the classifier reads.

    Args:
        min_match: Least share of the attributes that a caption names (``storyboard.vocabulary``) of
            which the classifier reads the same, 0 to 1.
        min_agreement: Least share of the captions that match, and of those pictures least share in
            which the classifier is sure of the style: below it it cannot read the set, and all
            stay.
    """

    def __init__(self, min_match: float = 0.7, min_agreement: float = 0.75, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.min_match, self.min_agreement = min_match, min_agreement
        self.judges = False

    def compute_stats_single(self, sample, context=False):
        stats = sample[Fields.stats]
        if "image_style" in stats:  # the other of these filters has measured
            return sample
        from storyboard.models import classifier

        pixels = classifier.pixels_of(row_picture(self, sample, context))
        features = classifier.features(_classifier(), pixels[None])
        (reading,) = classifier.readings(_classifier(), features)
        named = classifier.readable(sample[self.text_key])
        missing = [name for name, values in named.items() if reading[name][0] not in values]
        stats["caption_attributes"] = len(named)
        stats["caption_attributes_seen"] = len(named) - len(missing)
        stats["caption_attributes_missing"] = ", ".join(missing)
        stats["image_style"], stats["image_style_probability"] = reading["style"]
        stats["caption_style"] = ", ".join(_named_styles(sample[self.text_key]))
        return sample

    def look_at_set(self, statistics: Sequence[dict]) -> None:
        enough = [row for row in statistics if row["caption_attributes"] >= LEAST_NAMED]
        matching = [row for row in enough if self._matches(row)]
        sure = sum(row["image_style_probability"] >= SURE for row in matching)
        confirms = len(matching) >= self.min_agreement * len(enough)
        self.judges = bool(enough) and confirms and sure >= self.min_agreement * len(matching)
        if self.judges:
            self._look_further(statistics, matching)
        elif not enough:
            self.note = "judged none: no caption names three things that the classifier knows"
        elif not confirms:
            self.note = (
                f"judged none: the classifier, which knows mini's drawings, confirms "
                f"{len(matching)} of {len(enough)} captions"
            )
        else:
            self.note = (
                f"judged none: the classifier, which knows mini's drawings, is sure of the "
                f"style of {sure} of {len(matching)} pictures"
            )

    def _look_further(self, statistics: Sequence[dict], matching: Sequence[dict]) -> None:
        """What else there is to decide, of a set that the classifier can read."""

    def _matches(self, stats: dict) -> bool:
        return stats["caption_attributes_seen"] >= self.min_match * stats["caption_attributes"]


@OPERATORS.register_module("image_caption_filter")
class ImageCaptionFilter(AttributeFilter):
    """Keeps pictures that show what their captions say, as far as the classifier knows it.

    Captions that name fewer than three attributes are not judged: their pictures stay.
    """

    MEASURES = ("caption_attributes", "caption_attributes_seen", "caption_attributes_missing")

    def _look_further(self, statistics: Sequence[dict], matching: Sequence[dict]) -> None:
        short = sum(row["caption_attributes"] < LEAST_NAMED for row in statistics)
        if short:
            self.note = (
                f"did not judge {short} of {len(statistics)}: captions that name fewer than "
                "three things that the classifier knows"
            )

    def process_single(self, sample):
        stats = sample[Fields.stats]
        is_short = stats["caption_attributes"] < LEAST_NAMED
        return not self.judges or is_short or self._matches(stats)


@OPERATORS.register_module("image_style_filter")
class ImageStyleFilter(AttributeFilter):
    """Keeps pictures drawn as most of the set is, or as their captions say.

    Args:
        min_style_probability: Least probability of that style to keep a picture, 0.5 to 1.
        min_style_share: Least share of the pictures, of those that match their captions, of one
            style: below it the set has no style of its own, and all stay.
    """

    MEASURES = ("image_style", "image_style_probability")

    def __init__(
        self,
        min_style_probability: float = 0.8,
        min_style_share: float = 0.75,
        *args,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.min_style_probability = min_style_probability
        self.min_style_share = min_style_share
        self.style = ""

    def _look_further(self, statistics: Sequence[dict], matching: Sequence[dict]) -> None:
        styles = Counter(row["image_style"] for row in matching)
        ((self.style, count),) = styles.most_common(1)
        if count < self.min_style_share * len(matching):
            self.judges = False
            self.note = f"judged none: of {len(matching)} pictures only {count} are in one style"

    def limits(self) -> dict[str, list[float | None]]:
        return (
            {"image_style_probability": [self.min_style_probability, None]} if self.judges else {}
        )

    def process_single(self, sample):
        stats = sample[Fields.stats]
        wanted = {self.style, *stats["caption_style"].split(", ")}
        is_sure = stats["image_style_probability"] >= self.min_style_probability
        return not self.judges or (stats["image_style"] in wanted and is_sure)


def _named_styles(caption: str) -> list[str]:
    """The styles of ``mini`` that ``caption`` names."""
    text = caption.lower()
    return [style for style, words in vocabulary.STYLE.items() if any(w in text for w in words)]
