"""Recipes as people write, copy and damage them, over a few odd captions and pictures."""

import functools
import random
from collections.abc import Callable
from pathlib import Path

import yaml
from PIL import Image

from benchmarks.bad_inputs import Wrong

WITHOUT_MORE = 0.9  # share of good recipes without operators that need a package or a model
NEED_MORE = {
    *("chinese_convert_mapper", "clean_html_mapper", "document_simhash_deduplicator"),
    *("flagged_words_filter", "stopwords_filter", "image_deduplicator", "fix_unicode_mapper"),
}
# Their libraries take longer to import than an input may take.
MODELS = {
    *("image_aesthetics_filter", "image_nsfw_filter", "image_watermark_filter"),
    *("image_text_matching_filter", "image_text_similarity_filter"),
}
ODD_VALUES = [
    *("100", "200", "", " ", "None", "nan", "1:2", "１００", "a" * 5000, "10KB", "-5KB", "1e3"),
    *(None, True, False, 0, -1, 1, 0.5, 1.5, 10**30, -(10**30), 2**63, 1e300),
    *(float("nan"), float("inf"), float("-inf")),
    *([], [1], ["a", 2], [[[[]]]], {}, {"a": 1}, {"a": {"b": [None]}}),
    *(
        "any",
        "all",
        "lambda x: x",
        "(a+)+$",
        "(a|a)*$",
        "[",
        "\\",
        "../../x",
        "/etc/passwd",
        "\x07",
    ),
]
CAPTIONS = [
    *("", "a", "画", "二次元，紫色短发女孩", "a <b>girl</b>, see https://example.org/x me@x.org"),
    *("a" * 3000, "，" * 500, "😀👩‍👩‍👧 ﷽", "%" * 800, "\\section{x} \\newcommand{\\a}{\\a\\a}"),
    *("| a | b |\n" * 40, "http://" + "(" * 300, "1.2.3.4 /* copyright */ // x", "{}[]()^$.*+?"),
]
SIZES = [(1, 1), (1, 900), (900, 1), (16, 16), (64, 48), (300, 220), (256, 256), (3000, 9)]


def make(rng: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """One bad recipe below ``folder``: what it is, and the cleaning that must handle or refuse it.

    The call raises ``Wrong`` where a row is swallowed, code of the recipe ran, or something was
    written beside the cleaned set.
    """
    from storyboard import Settings

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(rng.randint(1, 5)):
        mode = rng.choice(["RGB", "RGB", "L"])
        image = Image.effect_noise(rng.choice(SIZES), rng.choice([0, 40, 90])).convert(mode)
        image.save(pictures / f"{number}.{rng.choice(['png', 'jpg'])}")
        (pictures / f"{number}.txt").write_text(rng.choice(CAPTIONS), encoding="utf-8")

    kind = rng.choice([damaged, odd_values, odd_structure, bomb, code, sequence, sequence])
    content = kind(rng, folder)
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    settings = Settings(dataset=str(pictures), output=str(folder / "out"), recipe=str(recipe))
    return f"recipe: {kind.__name__} {content[:160]!r}", lambda: _clean(settings, folder)


def _clean(settings, folder: Path) -> object:
    from storyboard import clean, collect

    captions = collect(settings)
    before = _contents(captions.folder)
    try:
        report = clean(captions, settings)
    finally:
        if (folder / "written").exists():
            raise Wrong("code of the recipe ran")
        if _contents(captions.folder) != before:
            raise Wrong("the collected set was changed")
    accounted = len(report.captions) + len(report.dropped) + len(report.unreadable)
    if accounted != report.total or not all(row.reason for row in report.dropped):
        raise Wrong(f"{accounted} of {report.total} rows are accounted for")
    for row in report.captions.rows:
        with Image.open(report.captions.path(row)) as image:
            image.load()
    return report


def _contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def damaged(rng: random.Random, folder: Path) -> bytes:
    """A good recipe with bytes flipped, cut, zeroed or repeated."""
    content = bytearray(_written(_good(rng)).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content))
        length = rng.randint(1, 12)
        change = rng.choice(["flip", "cut", "zero", "repeat", "tab"])
        if change == "flip":
            content[at] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del content[at : at + length]
        elif change == "zero":
            content[at : at + length] = bytes(length)
        elif change == "repeat":
            content[at:at] = content[at : at + length] * rng.randint(1, 200)
        elif change == "tab":
            content[at:at] = b"\t"
        if not content:
            break
    return bytes(content)


def odd_values(rng: random.Random, folder: Path) -> str:
    """A safe operator with odd values for its parameters."""
    operator = rng.choice(_safe())
    names = [name for name in _parameters(operator) if not name.startswith("_")]
    parameters = {rng.choice(names): rng.choice(ODD_VALUES) for _ in range(rng.randint(1, 3))}
    return _written([{operator: parameters}])


def odd_structure(rng: random.Random, folder: Path) -> str:
    """Something else in YAML where operators and parameters belong."""

    def value(depth: int) -> object:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice([*ODD_VALUES, rng.choice(_safe())])
        if rng.random() < 0.5:
            return [value(depth - 1) for _ in range(rng.randint(0, 3))]
        return {
            str(rng.choice([*_safe()[:5], "process", 1, ""])): value(depth - 1)
            for _ in range(rng.randint(0, 3))
        }

    content = rng.choice([value(4), {"process": value(3)}, {"process": [value(2), value(2)]}])
    return yaml.safe_dump(content, allow_unicode=True)


def bomb(rng: random.Random, folder: Path) -> str:
    """YAML that would grow, nest or build objects."""
    levels, width = rng.randint(2, 14), rng.randint(2, 12)
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    marker = str(folder / "written")
    return rng.choice(
        [
            "\n".join([*lines, f"process: [{{text_length_filter: {{min_len: *a{levels - 1}}}}}]"]),
            "process: " + "[" * rng.randint(10, 60_000),
            "process: " + "{a: " * rng.randint(10, 30_000),
            "process: &p [*p]",
            f"process: !!python/object/apply:os.mkdir [{marker!r}]",
            f"process: [text_length_filter: {{min_len: !!python/object/new:os.mkdir [{marker}]}}]",
            "process:\n" + "- text_length_filter: {}\n" * rng.randint(500, 20_000),
            "process:\n- text_length_filter:\n    min_len: " + "9" * rng.randint(1, 9000),
        ]
    )


def code(rng: random.Random, folder: Path) -> str:
    """Operators that would run code of the recipe's, programs or downloads."""
    from storyboard.data import operator_list

    marker = str(folder / "written")
    statement = f"open({marker!r}, 'w')"
    (folder / "code.py").write_text(f"{statement}\ndef process_single(row):\n    return row\n")
    function = f"lambda row: {statement} and row"
    mapper = {"python_lambda_mapper": {"lambda_str": function}}
    entry = rng.choice(
        [
            mapper,
            {"python_file_mapper": {"file_path": str(folder / "code.py")}},
            {"remove_repeat_sentences_mapper": {"tokenizer": function}},
            {"general_fused_op": {"fused_op_list": [mapper]}},
            {"general_field_filter": {"filter_condition": f"{statement} == 1"}},
            {"image_nsfw_filter": {"trust_remote_code": True, "hf_nsfw_model": str(folder)}},
            {"text_length_filter": {"stats_export_path": marker}},
            {"image_blur_mapper": {"p": 1.0, "save_dir": marker}},
            {rng.choice(sorted(operator_list.UNSAFE)): {}},
        ]
    )
    return _written([*_good(rng)[: rng.randint(0, 2)], entry])


def sequence(rng: random.Random, folder: Path) -> str:
    """Safe operators in any order, with limits that people might set."""
    return _written(_good(rng))


def _good(rng: random.Random) -> list[dict]:
    steps = []
    needless = rng.random() < WITHOUT_MORE
    choices = [name for name in _safe() if not (needless and name in NEED_MORE)]
    for operator in rng.choices(choices, k=rng.randint(1, 5)):
        parameters = {}
        for name, parameter in _parameters(operator).items():
            if rng.random() < 0.5 or name in ("reversed_range", "tokenization", "batch_mode"):
                continue
            default = parameter.default
            if isinstance(default, bool):
                parameters[name] = rng.random() < 0.5
            elif isinstance(default, int):
                parameters[name] = rng.choice([1, 2, 5] if name.startswith("min") else [50, 300])
            elif isinstance(default, float):
                low = name.startswith("min")
                parameters[name] = rng.choice([0.0, 0.01] if low else [0.3, 0.9, 1.0, 4.0])
        steps.append({operator: parameters})
    return steps


def _written(process: list[dict]) -> str:
    return yaml.safe_dump({"process": process}, allow_unicode=True)


def _safe() -> list[str]:
    from storyboard.data import operator_list

    return sorted(operator_list.SAFE - MODELS)


@functools.cache
def _parameters(operator: str) -> dict:
    from storyboard.compat import data_juicer

    with data_juicer.data_juicer() as ops:
        from storyboard.data import operators  # noqa: F401

        return data_juicer.parameters_of(ops.OPERATORS.modules[operator])
