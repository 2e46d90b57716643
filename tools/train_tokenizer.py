"""Make the SentencePiece vocabulary of ``mini``: python -m tools.train_tokenizer ART WORK

Every word of the captions becomes one piece in Chinese and in English; pieces never join two
attributes (a piece such as 紫色短发 could not be told apart again). Anything else falls back to
characters and bytes.
"""

import argparse
import io
import json
import random
import re
from pathlib import Path

import sentencepiece

from tools.captions import (
    BLURRED,
    COLORS,
    EXPRESSION,
    FILLER,
    HAIR,
    LENGTH,
    PERSON,
    PROP,
    SCENE,
    STYLE,
    caption,
)

EXTRA = (
    "的在着和与穿一个里有她他正坐站看开心哭走向去来上下"
    "天大小很人物角色风格背景衣服头发眼睛戴眼镜，。、！？"
)


def zh_words() -> list[str]:
    single = [pair[0] for table in (HAIR, COLORS, LENGTH, PERSON, STYLE) for pair in table.values()]
    several = [
        word for table in (EXPRESSION, PROP, SCENE) for pair in table.values() for word in pair[0]
    ]
    return sorted(
        {*single, *several, *FILLER[0], *BLURRED[0].split("，"), "戴眼镜", "衣服", "背景"},
        key=len,
        reverse=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("art", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pieces", type=int, default=700)
    arguments = parser.parse_args()

    rng = random.Random(0)
    words = re.compile("|".join(map(re.escape, zh_words())))
    lines = []
    for attributes in json.loads((arguments.art / "meta.json").read_text()):
        zh, en = (caption(attributes, language, rng, 0.1) for language in ("zh", "en"))
        lines += [words.sub(lambda m: f"\t{m[0]}\t", zh), re.sub(r"([ ,])", r"\t\1", en)]
    # the held-out style's word, though no picture of the base carries it
    lines += [STYLE["lorelei"][1]] * 50 + list(EXTRA) * 5
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=arguments.pieces,
        model_type="bpe",
        byte_fallback=True,
        pretokenization_delimiter="\t",
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        user_defined_symbols=zh_words(),
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    print(
        len(processor),
        processor.encode_as_pieces("二次元，紫色短发女孩，微笑，蓝色衣服，在海边"),
        processor.encode_as_pieces(
            "anime, a girl with short purple hair, smiling, blue clothes, seaside"
        ),
    )


if __name__ == "__main__":
    main()
