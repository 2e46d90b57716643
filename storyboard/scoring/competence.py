"""What the attribute classifier of ``mini`` cannot judge, and why, in a sentence for a person.

Measured (the classifier of 2026-11): it is 96 to 99 % sure of what it reads in pictures of the
styles that it learnt, and 66 to 76 % in those of nine other hands. Of what the sample set's
captions name it reads 98 % in the pictures, of a foreign character's 48 %.
"""

from collections.abc import Mapping, Sequence
from statistics import mean

import torch

from storyboard.models import classifier
from storyboard.models.classifier import Classifier

CONFIDENCE = 0.87  # between its own styles and those of others
AGREEMENT = 0.75  # of what captions name
FEWEST_NAMED = 20  # attributes in captions, below which their share is chance
# 24 % of other styles' pictures lie among 10 training pictures, 15 % among 20, 3 % among 60
FEWEST_PICTURES = 20
LIMITS = (CONFIDENCE, AGREEMENT, FEWEST_NAMED, FEWEST_PICTURES)

Attributes = Mapping[str, set[str]]


def refusal(model: Classifier, texts: Sequence[str], features: torch.Tensor) -> str | None:
    """Why pictures drawn like a training set cannot be judged; None where they can.

    Args:
        texts: m captions of the training set.
        features: (m, 2048) of their pictures.
    """
    seen = classifier.readings(model, features)
    confidence = mean(probability for reading in seen for _, probability in reading.values())
    if confidence < CONFIDENCE:
        return (
            "no answer: the classifier has not seen drawings like the training set's, it is only "
            f"{100 * confidence:.0f} % sure of what it reads there ({100 * CONFIDENCE:.0f} are "
            "needed): look at the pictures yourself · 无法评分：分类器没见过这种画法，请直接看图"
        )

    named = [classifier.readable(text) for text in texts]
    total = sum(map(len, named))
    if total < FEWEST_NAMED:
        return None
    agreement = sum(map(_found, named, seen)) / total
    if agreement < AGREEMENT:
        return (
            f"no answer: the classifier reads only {100 * agreement:.0f} % of what the training "
            f"set's captions say in its own pictures ({100 * AGREEMENT:.0f} are needed): compare "
            "them · 无法评分：训练图与描述对不上，请核对"
        )
    return None


def unreadable(wanted: Sequence[Attributes]) -> str | None:
    """Why prompts cannot be checked; None where at least half of them can.

    Args:
        wanted: What each names, as ``classifier.readable``.
    """
    can = sum(map(bool, wanted))
    if 2 * can >= len(wanted) and can:
        return None
    some = f"only {can} of {len(wanted)} prompts name" if can else "no prompt names"
    return (
        f"no answer: {some} anything that mini was taught "
        "(hair, expression, clothes, place, thing) · 提示词里没有可核对的特征"
    )


def too_few(pictures: int) -> str | None:
    """Why so small a training set shows no style; None where it does."""
    if pictures >= FEWEST_PICTURES:
        return None
    return (
        f"no answer: of {pictures} training pictures nobody can tell a style, "
        f"{FEWEST_PICTURES} are needed · 无法评分：训练集不到 {FEWEST_PICTURES} 张，看不出画风"
    )


def _found(named: Attributes, seen: classifier.Reading) -> int:
    """How many attributes of ``named`` are as they are seen."""
    return sum(seen[name][0] in values for name, values in named.items())
