"""The cards of a bundle: what the data were, what the model is, in Chinese and English, and under which licences."""

import re
from pathlib import Path

from storyboard import resources
from storyboard.data import recipes
from storyboard.data.cleaning import CleaningReport
from storyboard.lora import file as lora
from storyboard.models import bases
from storyboard.models.run import check
from storyboard.rendering.stage import Pictures
from storyboard.settings import Settings

NOTICE = resources.path("NOTICE.md")
# Hugging Face's licence identifiers (https://huggingface.co/docs/hub/repositories-licenses)
OTHER = {"license": "other", "license_name": "as-the-base-model"}


def licence(settings: Settings) -> dict[str, str]:
    """Licence fields of the front matter."""
    base = check(settings)
    return dict(base.licence) if base.name in bases.names() else OTHER


def dataset(settings: Settings) -> str:
    """The data set's name, without a path of this machine."""
    return (
        settings.dataset
        if settings.dataset == "sample"
        or (
            re.fullmatch(r"[\w.-]+/[\w.-]+", settings.dataset)
            and not Path(settings.dataset).exists()
        )
        else "own pictures"
    )


def data_card(settings: Settings, path: Path, report: CleaningReport | None) -> dict:
    """Counts, recipe and funnel; of a LoRA made elsewhere only what its metadata says."""
    card = {
        "dataset": dataset(settings),
        "trained_on": int(lora.metadata(path).get("ss_num_train_images") or 0) or None,
    }
    if report is None:
        return card
    process = recipes.read(settings.recipe).to_json()
    return card | {
        "pictures": {
            "found": report.total,
            "kept": len(report.captions),
            "dropped": len(report.dropped),
            "unreadable": len(report.unreadable),
        },
        "recipe": {"name": Path(settings.recipe).name, "process": _without_folders(process)},
        "funnel": [
            {"operator": count.operator, "kept": count.kept, "dropped": count.dropped}
            for count in report.operators
        ],
    }


def _without_folders(value):
    """A recipe's values, absolute paths (of models) by their last part alone."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    return (
        Path(value).name
        if isinstance(value, str) and Path(value).expanduser().is_absolute()
        else value
    )


def model_card(
    pictures: Pictures, path: Path, settings: Settings, report: CleaningReport | None
) -> str:
    """``README.md`` with the front matter that ModelScope and Hugging Face read."""
    import yaml

    base = check(settings)
    known = base.name in bases.names()
    front = licence(settings) | {
        "language": ["zh", "en"],
        "pipeline_tag": "text-to-image",
        "library_name": "diffusers",
        "tags": ["lora", "text-to-image", "storyboard"],
        "frameworks": ["pytorch"],
        "tasks": ["text-to-image-synthesis"],
    }
    if base.huggingface and known:
        front |= {"base_model": base.huggingface, "base_model_relation": "adapter"}
    front["widget"] = [  # the hub's gallery
        {
            "text": entry["prompt"],
            "parameters": {"negative_prompt": entry["negative_prompt"]},
            "output": {"url": entry["file"]},
        }
        for entry in pictures.panels
    ]
    said, panel = lora.metadata(path), pictures.panels[0]
    facts = {
        "底模 base": base.name,
        "秩 rank / alpha": f"{said.get('ss_network_dim', '?')} / {said.get('ss_network_alpha', '?')}",
        "训练步数 steps": said.get("ss_steps", "?"),
        "批大小 batch size": said.get("ss_batch_size_per_device", "?"),
        "学习率 learning rate": said.get("ss_learning_rate", "?"),
        "随机种子 seed": said.get("ss_seed", "?"),
        "分辨率 resolution": said.get("modelspec.resolution", "?"),
        "SHA-256": f"`{panel['lora']}`",
    }
    if "prediction_type" in panel:
        facts["预测 prediction"] = panel["prediction_type"] + (
            ", zero terminal SNR" if panel["zero_terminal_snr"] else ""
        )
    drawing = f"{panel['sampler']}, {panel['schedule_type']}, {panel['steps']} steps, CFG {panel['guidance_scale']:g}, {panel['width']} × {panel['height']}"
    drawing += f", clip skip {panel['clip_skip']}" if "clip_skip" in panel else ""
    rows = [
        (place, entry["prompt"] + _followed(entry), entry["negative_prompt"], entry["seed"])
        for place, entry in enumerate(pictures.panels, 1)
    ]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(),
            "---",
            "",
            "# 故事画风 LoRA · Story style LoRA",
            "",
            f"用 Storyboard 在 {base.name} 上训练的 LoRA，以及用它画出的 {len(rows)} 格故事。",
            "",
            f"A LoRA trained with Storyboard on {base.name}, and the story of {len(rows)} panels drawn with it.",
            "",
            "![story](story.png)",
            "",
            "## 使用 · Use",
            "",
            f"`lora.safetensors` (kohya): {base.family.use}.",
            "",
            *_snippet(base, known),
            '`storyboard.reproduce("story.zip")` 会重画每一格，并逐格说明是否一致 · draws each panel again and says whether it is the same.',
            "",
            "## 训练 · Training",
            "",
            *_table(["", ""], facts.items()),
            "",
            "## 数据 · Data",
            "",
            *_data(settings, said, report),
            "",
            "## 提示词 · Prompts",
            "",
            f"{drawing}.",
            "",
            *_table(["", "prompt", "negative prompt", "seed"], rows),
            "",
            "## 许可与致谢 · Licences and credits",
            "",
            "见 See [LICENSES.md](LICENSES.md).",
            "",
        ]
    )


def _followed(entry: dict) -> str:
    """What a panel follows beside its prompt."""
    said = entry.get("reference")
    reference = f" · 参考图 reference: [{said['control']}]({said['file']})" if said else ""
    return reference + (
        f" · 同一个女主角 heroine: {entry['heroine']['by']}" if "heroine" in entry else ""
    )


def _snippet(base: bases.Base, known: bool) -> list[str]:
    if not (base.huggingface and known):
        return []
    return [
        "```python",
        "import torch",
        f"from diffusers import {base.pipeline}",
        "",
        f'pipe = {base.pipeline}.from_pretrained("{base.huggingface}", torch_dtype=torch.float16, variant="fp16").to("cuda")',
        'pipe.load_lora_weights(".", weight_name="lora.safetensors")  # 本仓库的文件夹 the folder of this repository',
        "```",
        "",
    ]


def licences(settings: Settings) -> str:
    """``LICENSES.md``: what the LoRA is given on under, and the credits of what lies in this repository."""
    found = licence(settings)
    name = " ".join(
        filter(None, [found.get("license_name", found["license"]), found.get("license_link")])
    )
    lines = [
        "# 许可与致谢 · Licences and credits",
        "",
        f"LoRA：遵循底模许可 · under its base model's licence: {name}.",
        "",
        "用 Data-Juicer (Apache 2.0) 清洗，DiffSynth-Studio (Apache 2.0) 训练，diffusers (Apache 2.0) 出图；story.pdf 的字体 Noto Sans CJK (OFL 1.1)。"
        " Cleaned by Data-Juicer, trained by DiffSynth-Studio, drawn by diffusers; story.pdf is set in Noto Sans CJK.",
        "",
    ]
    if settings.dataset == "sample" or check(settings).embedded:
        lines += [re.sub(r"^#", "##", NOTICE.read_text(encoding="utf-8"), count=1)]
    if settings.dataset != "sample":
        lines += [
            f"训练图片 · training pictures: {dataset(settings)}，其作者与许可请在发布前补充于此 · name their authors and licence here before you publish.",
            "",
        ]
    return "\n".join(lines)


def _data(settings: Settings, said: dict[str, str], report: CleaningReport | None) -> list[str]:
    if report is None:
        return [f"{dataset(settings)}: {said.get('ss_num_train_images', '?')} 张图片 pictures."]
    counts = f"共 {report.total} 张，保留 {len(report.captions)}，去掉 {len(report.dropped)}，无法读取 {len(report.unreadable)} · {report.total} pictures, {len(report.captions)} kept, {len(report.dropped)} dropped, {len(report.unreadable)} unreadable"
    rows = [
        (count.operator, count.kept, count.dropped)
        for count in report.operators
    ]
    return [
        f"{dataset(settings)}: {counts}. Data-Juicer:",
        "",
        *_table(["算子 operator", "保留 kept", "去掉 dropped"], rows),
        "",
        "菜谱与漏斗见 Recipe and funnel: [data_card.json](data_card.json).",
    ]


def _table(head: list[str], rows) -> list[str]:
    cell = lambda value: " ".join(str(value).split()).replace("|", "\\|")
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(map(cell, row))} |" for row in rows),
    ]
