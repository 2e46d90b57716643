"""Recipes: what is wrong with one is said in a sentence."""

import pytest
import yaml

from storyboard.compat.data_juicer import data_juicer
from storyboard.data import recipe_operators, recipes
from storyboard.errors import SettingsError


@pytest.fixture
def recipe(tmp_path):
    """process -> path of a recipe with it."""

    def write(process: str | list) -> str:
        path = tmp_path / "recipe.yaml"
        text = process if isinstance(process, str) else yaml.safe_dump({"process": process})
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("process: [", "is not YAML"),
        ("other: 1", "needs a list called process"),
        ("process: 5", "needs a list called process"),
        ("process: {image_shape_filter: {}}", "needs a list called process"),
        ("process：\n  - a：{}\n", r"needs a list called process \(YAML needs ':' and a space"),
        ("process: []", "needs a list called process"),
        ("process: [" + "a, " * 200 + "]", "lists 200 operators, over 100"),
        ("process: [" + "a" * 2000 + "]", "Entry 1 .* is called 'aaa.*'…, which is no operator's"),
        ("process: [5]", "Entry 1 of process in .* is no operator"),
        ("process: [a, [b]]", "Entry 2 of process .* is no operator"),
        (
            "process:\n- image_shape_filter:\n  min_width: 5\n",
            "Entry 1 .* has image_shape_filter, min_width side by side: .* indent",
        ),
        ("process:\n- image_shape_filter: 100\n", "gives image_shape_filter '100'"),
        ("process:\n- image_shape_filter: [1]\n", "gives image_shape_filter '.1.'"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(recipe, process, message):
    with pytest.raises(SettingsError, match=message) as error:
        recipes.read(recipe(process))
    assert "\n" not in str(error.value)


def test_an_operator_without_parameters_is_as_it_is_by_default(recipe):
    steps = recipes.read(
        recipe("process:\n  - text_length_filter\n  - image_shape_filter:\n")
    ).steps
    assert [(step.operator, step.parameters) for step in steps] == [
        ("text_length_filter", {}),
        ("image_shape_filter", {}),
    ]


OPERATORS = [
    ({"image_shap_filter": {}}, "'image_shap_filter'.*write 'image_shape_filter'"),
    ({"x_filter": {}}, "names the operator 'x_filter', which Data-Juicer does not have"),
    ({"image_shape_filter": {"any_or_all": "some"}}, r"that it does not take \(ValueError: .*some"),
    (
        {"image_shape_filter": {"min_widht": 5}},
        "the parameter 'min_widht', which it does not take: it takes any_or_all, max_height",
    ),
    ({"random_selector": {"select_ratio": 0.5}}, "neither filters, deduplicates nor maps"),
    ({"image_deduplicator": {}}, r"has image_deduplicator, which needs imagededup: install it \("),
    ({"replace_content_mapper": {"pattern": "("}}, r"error: missing \)"),
    # a value of another type, with the type that is wanted
    (
        {"image_shape_filter": {"min_width": "100"}},
        "image_shape_filter min_width='100', which should be a valid integer: write it without",
    ),
    ({"image_shape_filter": {"min_width": 1.5}}, "min_width=1.5, which should be a valid integer"),
    ({"image_shape_filter": {"min_width": True}}, "min_width=True, which should be a valid int"),
    ({"image_shape_filter": {"min_width": None}}, "min_width=None, which should be a valid int"),
    ({"image_shape_filter": {"min_width": [1]}}, r"min_width=\[1\], which should be a valid int"),
    ({"image_shape_filter": {"any_or_all": 5}}, "any_or_all=5, which should be a valid string"),
    ({"image_aspect_ratio_filter": {"min_ratio": "0.5"}}, "min_ratio='0.5', which should be a"),
    ({"image_aspect_ratio_filter": {"min_ratio": "1:2"}}, "min_ratio='1:2', which should be a"),
    ({"character_repetition_filter": {"rep_len": 0}}, "rep_len=0, which should be greater than 0"),
    (
        {"document_deduplicator": {"lowercase": "no"}},
        "lowercase='no', which should be a valid bool",
    ),
    ({"image_size_filter": {"min_size": "1 kilobyte"}}, "min_size='1 kilobyte', which must be a"),
    ({"image_size_filter": {"min_size": "1.5KB"}}, "min_size='1.5KB', which must be a whole"),
    ({"image_size_filter": {"min_size": 1000}}, "min_size=1000, which should be a valid string"),
    # what would switch an operator off, or have it drop everything
    (
        {"image_near_deduplicator": {"max_difference": float("nan")}},
        "max_difference=nan, which must",
    ),
    ({"image_near_deduplicator": {"max_difference": -1}}, "-1, which must be from 0 to 255"),
    ({"image_aspect_ratio_filter": {"max_ratio": float("inf")}}, "inf, which must be a finite"),
    ({"image_shape_filter": {"min_width": 10**30}}, "must be a finite number that 64 bits hold"),
    ({"image_sharpness_filter": {"min_sharpness": 15}}, "15, which must be from 0 to 1"),
    (
        {"image_shape_filter": {"min_width": 9, "max_width": 5}},
        "min_width=9 above max_width=5, by which no row stays: set both",
    ),
    ({"image_aspect_ratio_filter": {"min_ratio": 4}}, "min_ratio=4 above max_ratio=3, by which no"),
    # what would take for ever
    ({"document_minhash_deduplicator": {"num_permutations": 10**6}}, "must be from 1 to 1024"),
    ({"replace_content_mapper": {"pattern": "(a+)+$"}}, "repeats what is repeated"),
    ({"replace_content_mapper": {"pattern": ["b", "(?:a*){2,}"]}}, "repeats what is repeated"),
    ({"replace_content_mapper": {"repl": "x" * 5000}}, "must have at most 1,000 characters"),
    ({"character_repetition_filter": {"rep_len": 10**6}}, "must be from 1 to 1000"),
    (
        {"document_minhash_deduplicator": {"num_bands": 100, "num_rows_per_band": 10}},
        "num_bands=100 of num_rows_per_band=10, more than num_permutations",
    ),
    ({"image_face_ratio_filter": {"cv_classifier": "gone.xml"}}, "must be the path of an XML"),
    # another column, another place
    ({"text_length_filter": {"text_key": "id"}}, "text_key='id', which must be 'text'"),
    ({"image_blur_mapper": {"save_dir": "/tmp/x"}}, "save_dir='/tmp/x', which cannot be set here"),
    ({"text_length_filter": {"stats_export_path": "x"}}, "stats_export_path='x', which cannot be"),
]


@pytest.mark.parametrize(("entry", "message"), OPERATORS, ids=[str(e)[:60] for e, _ in OPERATORS])
def test_a_wrong_operator_is_one_sentence(recipe, entry, message):
    with data_juicer() as ops, pytest.raises(SettingsError, match=message) as error:
        recipe_operators.make(ops, recipes.read(recipe([entry])), workers=1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800


def test_what_data_juicers_own_files_hold_is_taken(recipe):
    """Defaults written out, how many processes, an address in four bounded parts."""
    written_out = {"text_key": "text", "image_key": "images", "num_proc": 4, "batch_size": 10}
    process = [
        {"image_shape_filter": {"min_width": 5, "any_or_all": "any"} | written_out},
        {"image_size_filter": {"min_size": "10 KB", "max_size": "20mb"}},
        {"replace_content_mapper": {"pattern": r"(?:\d{1,3}\.){3}\d{1,3}", "repl": ""}},
        {"image_blur_mapper": {"save_dir": None, "radius": 2}},
        {"alphanumeric_filter": {"min_ratio": 0, "reversed_range": True}},
        {"text_length_filter": {"min_closed_interval": True, "max_closed_interval": False}},
    ]
    with data_juicer() as ops:
        made = recipe_operators.make(ops, recipes.read(recipe(process)), workers=1)
    assert [operator._name for operator in made] == [name for entry in process for name in entry]


@pytest.mark.parametrize("name", ["mine", "~nobody-such/x.yaml", "x" * 5000, "a\0b", "."])
def test_an_unknown_recipe_lists_those_there_are(name):
    with pytest.raises(SettingsError, match=r"There is no recipe.*course, sample"):
        recipes.read(name)


def test_the_course_recipe_has_the_courses_values():
    parameters = {step.operator: step.parameters for step in recipes.read("course").steps}
    assert parameters["image_shape_filter"] == {
        "min_width": 1024,
        "min_height": 1024,
        "any_or_all": "any",
    }
    ratio = parameters["image_aspect_ratio_filter"]
    assert (ratio["min_ratio"], ratio["max_ratio"]) == (0.5, 2.0)
