import json
import shutil
import subprocess
import sys
from collections import Counter

import nbformat
import pytest

from benchmarks import busy_machine, prompt_following
from storyboard.models import classifier
from tests.conftest import ROOT
from tools import captions


def combination(row):
    return row["hair_color"], row["expression"], row["clothes_color"], row["background"]


def test_prompts_are_many_and_even():
    prompts = prompt_following.prompts()
    assert len({combination(row) for row in prompts}) == len(prompts) and 2 * len(prompts) >= 200
    for name, values in classifier.VALUES.items():
        asked = prompt_following.framed(prompts) if name in ("framing", "facing") else prompts
        counts = Counter(row.get(name) for row in asked)
        assert all(counts[value] >= 5 for value in values if value not in ("lorelei", "half")), name
    assert 2 * len(prompt_following.prompts(quick=True)) == 20


def test_framed_prompts_ask_for_what_can_be_seen():
    for row in prompt_following.framed(prompt_following.prompts()):
        text = captions.caption(row, "zh")
        assert ("特写" in text) == (row["framing"] == "close"), text
        assert ("远景" in text) == (row["framing"] == "wide"), text
        assert ("面朝左" in text) == (row.get("facing") == "left"), text
        assert ("衣服" in text) == (row["framing"] != "close"), text


def test_no_caption_of_the_sample_set_has_a_combination_of_the_prompts():
    lines = (ROOT / "data/sample/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    for row in prompt_following.prompts():
        for language, comma, hair, lengths in (
            ("zh", "，", "{}{}发", ("长", "短")),
            ("en", ", ", "with {1} {0} hair", ("long", "short")),
        ):
            parts = captions.parts(row, language)
            clothes = next(part for part in parts if "衣服" in part or "clothes" in part)
            others = {parts[2], clothes, parts[-1]}
            color = captions.HAIR[row["hair_color"]][language == "en"]
            heads = [hair.format(color, length) for length in lengths]
            assert not [
                text
                for text in texts
                if any(head in text for head in heads) and others <= set(text.split(comma))
            ]


@pytest.mark.slow
def test_the_classifier_reads_real_renders():
    pixels, rows = prompt_following.real_renders()
    assert len(rows) >= 500
    scores = classifier.accuracy(classifier.read(classifier.load(), pixels), rows)
    assert min(scores.values()) >= 97, scores


def test_accuracy_counts_what_reads_as_asked():
    row = {name: values[0] for name, values in classifier.VALUES.items()}
    scores = classifier.accuracy([row, row | {"style": "micah"}], [row, row])
    assert scores["style"] == 50 and scores["hair_color"] == 100


@pytest.mark.slow
def test_quick_run_ends_in_json(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.prompt_following",
        "--quick",
        "--output",
        str(tmp_path),
    ]
    result = json.loads(
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=600
        ).stdout.splitlines()[-1]
    )
    assert list(result) == ["base", "lora", "framed", "classifier", "zh", "en"]
    assert (
        list(result["base"]) == list(prompt_following.REPORTED) == list(result["classifier"])
        and result["lora"] is None
    )
    assert min(result["base"].values()) >= 85 and min(result["zh"], result["en"]) >= 90, result


def cleaned_as(trained, folder):
    """Put into ``folder`` what the trained fixture collected, cleaned and cached."""
    for name in ("collected", "cleaned", "cache"):
        shutil.copytree(trained[0].folder / name, folder / name)


def benchmark(name, *arguments):
    """The JSON of the benchmark's last line; its table must have come before."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    lines = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=900
    ).stdout.splitlines()
    assert len(lines) > 5
    return json.loads(lines[-1])


@pytest.mark.full
def test_training_compares_all_three_on_the_same_samples(trained, tmp_path):
    cleaned_as(trained, tmp_path / "benchmark-training" / "data")
    result = benchmark(
        "training",
        "--base",
        "sd15-tiny",
        "--samples",
        8,
        "--batch",
        4,
        "--resolution",
        64,
        "--output",
        tmp_path,
    )
    assert list(result)[:4] == ["ratio_diffsynth", "ratio_diffusers", "loss_ours", "loss_diffsynth"]
    assert (
        result["ratio_diffsynth"] > 0
        and 0.5 < result["loss_ours"] < 2
        and abs(result["loss_ours"] - result["loss_diffsynth"]) < 0.05
    )


@pytest.mark.slow
def test_weights_say_what_rises():
    assert benchmark("weights", "--attribute", "hair_length", "--seeds", 1).keys() == {
        "hair_length"
    }


@pytest.mark.full
def test_rendering_compares_on_the_same_eight_panels(tmp_path):
    result = benchmark(
        "rendering",
        *("--base", "kolors-tiny", "--resolution", 64, "--peer-steps", 4),
        *("--output", tmp_path),
    )
    assert result["ratio_diffsynth"] > 0 and result["ratio_diffusers"] > 0


@pytest.mark.slow
def test_cleaning_keeps_what_dj_process_keeps(tmp_path):
    result = benchmark(
        "cleaning", "--images", 60, "--output", tmp_path
    )  # it ends with an error where the kept sets differ
    assert result["ratio_dj"] > 0 and result["ratio_floor"] > 0


@pytest.mark.slow
def test_notebook_times_both_runs(folder, tmp_path):
    """Of a notebook that only collects; tests/test_notebook.py runs all of the real one twice."""
    settings = nbformat.v4.new_code_cell('dataset = "sample"\noutput = "outputs"')
    settings.metadata["tags"] = ["parameters"]
    work = (
        "from storyboard import Settings, collect\n"
        "collect(Settings(dataset=dataset, output=output))"
    )
    notebook = tmp_path / "small.ipynb"
    cells = [settings, nbformat.v4.new_code_cell(work)]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    nbformat.write(made, notebook)
    result = benchmark(
        "notebook",
        *("--notebook", notebook, "-p", "dataset", folder, "--output", tmp_path / "out"),
    )
    assert result["first_s"] > 0 and result["second_s"] > 0


@pytest.mark.full
def test_the_card_benchmark_does_all_of_it_in_tiny(tmp_path):
    result = benchmark("gpu", "--dry", "--output", tmp_path)
    assert result.pop("failed") == [] and list(result) == [
        "rates",
        "peers",
        "mini",
        "drawing",
        "training",
        "levers",
        "text",
        "others",
    ]
    assert (
        result["mini"]["largest difference from the CPU fp32"] == 0
        and result["mini"]["pictures kept on the CPU"] == 12
    )
    assert (
        result["training"]["kolors step of 2, plain"] > 0
        and result["peers"]["kolors, diffusers's loop, a picture"] > 0
        and result["drawing"]["kolors, diffusers, eight panels"] > 0
    )
    written = json.loads((tmp_path / "rates.json").read_text(encoding="utf-8"))
    assert written["complete"] and written["notes"]["copy"]["unit"] == "TB/s read and written"


@pytest.mark.slow
def test_the_card_benchmark_measures_nothing_twice_and_reports_a_failure(tmp_path):
    (tmp_path / "rates.json").write_text(
        json.dumps(
            {
                "section": "rates",
                "complete": True,
                "failure": None,
                "notes": {"copy": {"value": 4.2, "unit": "TB/s"}},
            }
        ),
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--dry",
        "--sections",
        "rates",
        "mini",
        "--seconds",
        "6",
        "--output",
        str(tmp_path),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    results = json.loads(ran.stdout.splitlines()[-1])
    assert results["rates"] == {"copy": 4.2} and "rates: measured before" in ran.stdout
    assert (
        ran.returncode == 1
        and results["failed"] == ["mini"]
        and "stopped after" in results["mini"]["incomplete"]
    )


@pytest.mark.full
def test_the_benchmark_of_a_busy_machine_measures_beside_a_neighbour(trained, tmp_path):
    cleaned_as(trained, tmp_path)
    row = busy_machine.in_a_process(
        "by the load", True, tmp_path, busy_machine.LEFT_OUT + 2, quick=True
    )
    assert row["way"] == "by the load" and row["busy"]
    assert row["step_s"] > 0 and row["story_s"] > 0
