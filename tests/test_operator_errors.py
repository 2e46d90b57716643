"""Operators that fail: each row is listed with the operator's own error, or the cause is shown."""

import time
from pathlib import Path

import pytest

from storyboard import artifacts
from storyboard.compat.data_juicer import data_juicer
from storyboard.data import operator_list, row_judge
from storyboard.errors import DatasetError, SettingsError


@pytest.fixture
def run(clean_by):
    """(process, settings) -> the report of a recipe over ten pictures."""
    return lambda *process, **settings: clean_by(*process, **settings)[1]


@pytest.fixture
def operator():
    """(name, base's name, methods) -> registers such an operator of Data-Juicer for this test."""
    names = []

    def register(name: str, kind: str, **methods) -> None:
        with data_juicer() as ops:
            made = type(name, (getattr(ops, kind),), methods)
            ops.OPERATORS.register_module(name)(made)
        names.append(name)

    yield register
    with data_juicer() as ops:
        for name in names:
            del ops.OPERATORS.modules[name]


def failing_at(*ids: str, message: str = "no\nluck"):
    """A filter's measurement that fails at these rows."""

    def compute_stats_single(self, sample, context=False):
        if sample["id"] in ids:
            raise RuntimeError(message)
        sample["__dj__stats__"]["luck"] = 1
        return sample

    return compute_stats_single


def test_a_row_at_which_an_operator_fails_is_listed_with_the_error(run, operator):
    operator(
        "lucky_filter",
        "Filter",
        compute_stats_single=failing_at("0003", "0007"),
        process_single=lambda self, sample: True,
    )
    report = run({"lucky_filter": {}}, allow_operators=("lucky_filter",))
    assert [(row.id, row.reason) for row in report.dropped] == [
        (name, "the operator failed (RuntimeError: no luck)") for name in ("0003", "0007")
    ]
    assert "lucky_filter failed at 2 pictures: the operator failed (RuntimeE" in str(report)
    assert "lucky_filter failed at 2" in report._repr_html_()
    assert len(report.captions) + len(report.dropped) == report.total == 10


def test_a_mapper_that_fails_loses_no_row_in_silence(run, operator):
    def process_single(self, sample):
        if sample["id"] == "0003":
            raise KeyError("such")
        return sample | {"text": sample["text"] + "!"}

    operator("excited_mapper", "Mapper", process_single=process_single)
    report = run({"excited_mapper": {}}, allow_operators=("excited_mapper",))
    assert [(row.id, row.reason) for row in report.dropped] == [
        ("0003", "the operator failed (KeyError: 'such')")
    ]
    assert [row.text for row in report.captions.rows[:4]] == ["画 0!", "画 1!", "画 2!", "画 4!"]


def test_an_operator_that_fails_at_every_row_is_the_cause(run, operator):
    operator(
        "unlucky_filter",
        "Filter",
        compute_stats_single=failing_at(*(f"{i:04}" for i in range(10))),
        process_single=lambda self, sample: True,
    )
    steps = ({"image_near_deduplicator": {}}, {"unlucky_filter": {}})
    message = r"recipe.yaml has unlucky_filter, which fails at every .*\(RuntimeError: no luck\)"
    with pytest.raises(SettingsError, match=message) as error:
        run(*steps, allow_operators=("unlucky_filter",))
    assert "\n" not in str(error.value) and "loosen" not in str(error.value)


def test_some_rows_refused_and_the_rest_failed(run, operator):
    operator(
        "strict_filter",
        "Filter",
        compute_stats_single=failing_at("0001", "0002"),
        process_single=lambda self, sample: False,
    )
    with pytest.raises(DatasetError, match=r"strict_filter failed at 2, .*\(RuntimeError: no luck"):
        run({"strict_filter": {}}, allow_operators=("strict_filter",))


def test_an_operator_that_always_fails_is_not_tried_at_each_of_many_rows(
    run, operator, monkeypatch
):
    tried = []

    def process_single(self, sample):
        tried.append(sample["id"])
        raise OSError("no model")

    operator("modelled_mapper", "Mapper", process_single=process_single)
    monkeypatch.setattr(row_judge, "GIVE_UP", 4)
    with pytest.raises(SettingsError, match=r"modelled_mapper, which fails at every .*no model"):
        run({"modelled_mapper": {}}, allow_operators=("modelled_mapper",))
    assert len(tried) == 4


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"clean_html_mapper": {}},
            r"recipe.yaml has clean_html_mapper, which needs selectolax: install it \(pip",
        ),
        (
            {"chinese_convert_mapper": {}},
            r"recipe.yaml has chinese_convert_mapper, which needs opencc: install it \(pip",
        ),
        (
            {"document_simhash_deduplicator": {}},
            r"document_simhash_deduplicator, which needs simhash-pybind: install it \(pip",
        ),
        (
            {"image_nsfw_filter": {"hf_nsfw_model": "nobody/nothing"}},
            r"has image_nsfw_filter, which fails at every picture \(OSError: .*"
            "or set hf_nsfw_model='nobody/nothing' to a folder that holds the model",
        ),
        (
            {"specified_numeric_field_filter": {"field_key": "width"}},
            r"specified_numeric_field_filter, which fails at every .*AssertionError: 'width'",
        ),
    ],
)
def test_the_cause_is_the_operators_own(run, step, message):
    with pytest.raises(SettingsError, match=message) as error:
        run(step)
    assert "\n" not in str(error.value)


def test_a_model_in_a_pickle_is_not_loaded(run, tmp_path):
    import torch
    import transformers

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    model = tmp_path / "model"
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.ViTConfig(**small, intermediate_size=8, image_size=32, patch_size=16)
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(model)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(model)
    torch.save({"weights": Code()}, model / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="its weights are a pickle that holds more than tens"):
        run({"image_nsfw_filter": {"hf_nsfw_model": str(model)}})
    assert not (tmp_path / "ran").exists()

    (model / "pytorch_model.bin").unlink()
    transformers.ViTForImageClassification(config).save_pretrained(model)
    report = run({"image_nsfw_filter": {"hf_nsfw_model": str(model), "max_score": 1.0}})
    assert all(0 < each["image_nsfw_score"] < 1 for each in report.statistics.values())


def test_a_mapper_that_makes_several_rows_of_one(run, operator):
    def process_batched(self, samples):
        return {key: values * 2 for key, values in samples.items()}

    operator("doubling_mapper", "Mapper", _batched_op=True, process_batched=process_batched)
    with pytest.raises(SettingsError, match="doubling_mapper, which makes several rows of one"):
        run({"doubling_mapper": {}}, allow_operators=("doubling_mapper",))


def test_texts_that_repeat_and_one_that_cannot_be_compared(run, folder, operator):
    from_class = {}
    with data_juicer() as ops:
        parent = ops.OPERATORS.modules["document_deduplicator"]
        from_class["process"] = parent.process

    def compute_hash(self, sample):
        if sample["id"] == "0004":
            raise ValueError("odd")
        self.lowercase, self.remove_non_character_regex = False, None
        return parent.compute_hash(self, sample)

    (folder / "6.txt").write_text("画 2", encoding="utf-8")
    operator("text_deduplicator", "Deduplicator", compute_hash=compute_hash, **from_class)
    report = run({"text_deduplicator": {}}, allow_operators=("text_deduplicator",))
    assert {row.id: row.reason for row in report.dropped} == {
        "0004": "the operator failed (ValueError: odd)",
        "0006": "repeats another text",
    }


def test_filters_of_picture_and_text_find_the_pictures_token(run, operator, monkeypatch):
    """Without it they measure nothing, and keep all."""
    texts = []

    def compute_stats_single(self, sample, context=False):
        texts.append(sample["text"])
        return sample

    operator(
        "matching_filter",
        "Filter",
        compute_stats_single=compute_stats_single,
        process_single=lambda self, sample: True,
    )
    monkeypatch.setattr(operator_list, "PICTURE_IN_TEXT", {"matching_filter"})
    length = {"text_length_filter": {"min_len": 3, "max_len": 3}}
    report = run({"matching_filter": {}}, length, allow_operators=("matching_filter",))
    assert texts[0] == "<__dj__image> 画 0" and len(report.captions) == 10
    assert report.captions.rows[0].text == "画 0"


def test_a_pattern_that_takes_for_ever_is_stopped(run, folder, monkeypatch):
    monkeypatch.setattr(row_judge, "SECONDS_PER_CAPTION", 0.2)
    for i in range(10):
        (folder / f"{i}.txt").write_text("a" * 60 + "!")
    began = time.monotonic()
    pattern = "(a|aa|a?)+$"  # what the check of patterns does not see
    stopped = r"replace_content_mapper, which was stopped at several captions after 0.2 s"
    with pytest.raises(SettingsError, match=stopped):
        run({"replace_content_mapper": {"pattern": pattern}})
    assert time.monotonic() - began < 10


def test_a_caption_that_takes_for_ever_costs_only_itself(run, folder, monkeypatch):
    monkeypatch.setattr(row_judge, "SECONDS_PER_CAPTION", 0.2)
    (folder / "3.txt").write_text("a" * 60 + "!")
    report = run({"replace_content_mapper": {"pattern": "(a|aa|a?)+$"}})
    assert [(row.id, row.reason) for row in report.dropped] == [
        ("0003", "the operator failed (TimeoutError: it took over 0.2 s)")
    ]


def test_captions_do_not_grow_without_bound(run):
    step = {"replace_content_mapper": {"pattern": ".", "repl": r"\g<0>" * 60}}
    with pytest.raises(SettingsError, match=r"a caption has over 50,000 characters"):
        run(*[step] * 4)


def test_a_damaged_result_is_made_again(run, capsys):
    report = run({"text_length_filter": {"min_len": 1}})
    statistics = report.captions.folder / "statistics.json"
    manifest = artifacts.read_manifest(report.captions.folder)
    statistics.write_bytes(b"{" * manifest["files"]["statistics.json"])
    again = run({"text_length_filter": {"min_len": 1}})
    assert again.captions == report.captions and again.statistics == report.statistics
    assert "statistics.json is damaged" in capsys.readouterr().out
