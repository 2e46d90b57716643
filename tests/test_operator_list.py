"""Which operators run: those that were read and found safe, and those that the settings allow."""

import pytest
import yaml

from storyboard import clean, collect
from storyboard.compat.data_juicer import data_juicer
from storyboard.data import operator_list, recipes
from storyboard.errors import SettingsError


@pytest.fixture
def write(tmp_path):
    """process -> path of a recipe."""

    def write(*process) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"process": list(process)}), encoding="utf-8")
        return str(path)

    return write


def test_each_installed_operator_is_listed_once():
    """Fails where a release of Data-Juicer has an operator that nobody has read yet."""
    with data_juicer() as ops:
        from storyboard.data import model_operators  # noqa: F401

        installed = set(ops.OPERATORS.modules)
    unread = {name for name in installed if operator_list.why_unsafe(name) == operator_list.UNREAD}
    assert not unread
    assert not operator_list.SAFE & operator_list.UNSAFE.keys()
    assert not (operator_list.SAFE | operator_list.UNSAFE.keys()) - installed


@pytest.mark.parametrize(
    ("operator", "parameters", "reason"),
    [
        ("python_lambda_mapper", {"lambda_str": "lambda row: 1"}, "runs code"),
        ("python_file_mapper", {"file_path": "x.py"}, "runs code"),
        ("general_fused_op", {"fused_op_list": []}, "runs code or other operators"),
        ("download_file_mapper", {}, "sends rows to a service, or fetches"),
        ("llm_quality_score_filter", {}, "sends rows to a service"),
        ("image_captioning_mapper", {}, "downloads a model"),
        ("image_segment_mapper", {}, "loads a pickle"),
        ("image_mmpose_mapper", {}, "starts other programs"),
        ("latex_merge_tex_mapper", {}, "opens files that a caption names"),
        ("video_duration_filter", {}, "is for videos and sounds"),
        ("ray_image_deduplicator", {}, "Ray"),
        ("an_operator_of_next_year", {}, "is not on the list of operators that were read"),
        ("flagged_words_filter", {}, "downloads a list of words unless flagged_words_dir"),
        ("stopwords_filter", {"stopwords_dir": "/nowhere"}, "downloads a list of words"),
        ("words_num_filter", {"tokenization": True}, "sets tokenization .*downloads a tokenizer"),
        (
            "remove_repeat_sentences_mapper",
            {"tokenizer": "lambda line: [line]"},
            "sets tokenizer of remove_repeat_sentences_mapper, which is code that would run",
        ),
    ],
)
def test_what_is_not_safe_is_named_and_how_to_allow_it(write, operator, parameters, reason):
    recipe = recipes.read(write({operator: parameters}))
    with pytest.raises(SettingsError, match=reason) as error:
        recipes.check_safe(recipe)
    assert f'allow_operators=("{operator}",)' in str(error.value)
    assert str(recipe.path) in str(error.value) and "\n" not in str(error.value)
    recipes.check_safe(recipe, [operator])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("image_shap_filter", "image_shape_filter"), ("clean_link_mapper", "clean_links_mapper")],
)
def test_an_operator_that_is_misspelt(write, name, meant):
    with pytest.raises(SettingsError, match=f"'{name}', which .* write '{meant}'"):
        recipes.check_safe(recipes.read(write({name: {}})))


def test_code_that_came_with_a_model_never_runs(write):
    recipe = recipes.read(write({"image_nsfw_filter": {"trust_remote_code": True}}))
    for allowed in ((), ("image_nsfw_filter",)):
        with pytest.raises(SettingsError, match="sets trust_remote_code of image_nsfw_filter"):
            recipes.check_safe(recipe, allowed)


@pytest.fixture
def code(tmp_path, write):
    """(recipe whose operators run code, file that the code writes)."""
    written = tmp_path / "written"
    statement = f"open({str(written)!r}, 'a').write('x')"
    (tmp_path / "code.py").write_text(f"{statement}\ndef process_single(row):\n    return row\n")
    recipe = write(
        {"python_lambda_mapper": {"lambda_str": f"lambda row: {statement} and row"}},
        {"python_file_mapper": {"file_path": str(tmp_path / "code.py")}},
    )
    return recipe, written


def test_code_in_a_recipe_runs_only_where_the_settings_say_so(folder, make_settings, code):
    recipe, written = code
    settings = make_settings(dataset=str(folder), recipe=recipe)
    captions = collect(settings)
    with pytest.raises(SettingsError, match="python_lambda_mapper, which runs code"):
        clean(captions, settings)
    with pytest.raises(SettingsError, match="python_file_mapper, which runs code"):
        clean(captions, settings.but(allow_operators=("python_lambda_mapper",)))
    assert not written.exists() and not (settings.folder / "cleaned").exists()

    allowed = settings.but(allow_operators=["python_lambda_mapper", "python_file_mapper"])
    assert len(clean(captions, allowed).captions) == 10
    assert written.read_text() == "x" * 11


@pytest.mark.parametrize("names", ["python_lambda_mapper", None, [1], {"a": 1}, 5])
def test_operators_are_allowed_by_name(make_settings, names):
    with pytest.raises(SettingsError, match="allow_operators=.*must be names of operators"):
        make_settings(allow_operators=names)
