"""Recipes: what is wrong with one is said in a sentence."""

import pytest
import yaml

from storyboard.compat.data_juicer import data_juicer
from storyboard.data import recipes
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
        ([{"image_shap_filter": {}}], "'image_shap_filter'.*did you mean 'image_shape_filter'"),
        ("process: [", "is not YAML"),
        ("other: 1", "needs a list called process"),
        ("process: [a]", "needs a list called process"),
        ("process: 5", "needs a list called process"),
        (
            [{"image_shape_filter": {"any_or_all": "some"}}],
            "gives image_shape_filter parameters that it does not take",
        ),
        (
            [{"image_shape_filter": {"min_widht": 5}}],
            "the parameter 'min_widht', which it does not take: it takes any_or_all, max_height",
        ),
        ([{"random_selector": {"select_ratio": 0.5}}], "neither filters, deduplicates nor maps"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(recipe, process, message):
    with data_juicer() as ops, pytest.raises(SettingsError, match=message) as error:
        recipes.make_operators(ops, recipes.read(recipe(process)), workers=1)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(SettingsError, match="'mine'.*course, sample"):
        recipes.read("mine")


def test_the_course_recipe_has_the_courses_values():
    parameters = {step.operator: step.parameters for step in recipes.read("course").steps}
    assert parameters["image_shape_filter"] == {
        "min_width": 1024,
        "min_height": 1024,
        "any_or_all": "any",
    }
    ratio = parameters["image_aspect_ratio_filter"]
    assert (ratio["min_ratio"], ratio["max_ratio"]) == (0.5, 2.0)
