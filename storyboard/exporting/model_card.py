"""The model card of a bundle, in Chinese and English, as ModelScope and Hugging Face read it."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from storyboard.data.cleaning import CleaningReport
from storyboard.exporting import data_card, licences
from storyboard.exporting.markdown import escaped, table
from storyboard.lora import file as lora_file
from storyboard.models import bases
from storyboard.models.base import Base
from storyboard.models.run import check
from storyboard.records import PanelRecord
from storyboard.rendering.pictures import Pictures
from storyboard.settings import Settings

ONE_LINE = 10**9  # characters of a line of YAML


def build(pictures: Pictures, lora: Path, settings: Settings, report: CleaningReport | None) -> str:
    """``README.md`` with the front matter that the hubs read."""
    base, panels = check(settings), pictures.panels
    metadata = lora_file.metadata(lora)
    count, name = len(panels), escaped(base.name)
    return "\n".join(
        [
            "---",
            _front_matter(base, panels, settings),
            "---",
            "",
            "# 故事画风 LoRA · Story style LoRA",
            "",
            f"用 Storyboard 在 {name} 上训练的 LoRA，以及用它画出的 {count} 格故事。",
            "",
            f"A LoRA trained with Storyboard on {name}, and the story of {count} panels drawn "
            "with it.",
            "",
            "![story](story.png)",
            "",
            "## 使用 · Use",
            "",
            f"`lora.safetensors` (kohya): {base.family.use}.",
            "",
            *_snippet(base),
            '`storyboard.reproduce("story.zip")` 会重画每一格，并逐格说明是否一致 · '
            "draws each panel again and says whether it is the same.",
            "",
            "## 训练 · Training",
            "",
            *table(["", ""], _training_facts(base, metadata, panels[0]).items()),
            "",
            "## 数据 · Data",
            "",
            *_data(settings, metadata, report),
            "",
            "## 提示词 · Prompts",
            "",
            f"{_drawing_facts(panels[0])}.",
            "",
            *table(["", "prompt", "negative prompt", "seed"], _prompt_rows(panels)),
            "",
            "## 许可与致谢 · Licences and credits",
            "",
            "见 See [LICENSES.md](LICENSES.md).",
            "",
        ]
    )


def _front_matter(base: Base, panels: Sequence[PanelRecord], settings: Settings) -> str:
    """YAML (https://huggingface.co/docs/hub/model-cards); frameworks and tasks are ModelScope's."""
    from huggingface_hub import ModelCardData

    fields: dict[str, object] = {}
    if _is_public(base):
        fields |= {"base_model": base.huggingface, "base_model_relation": "adapter"}
    data = ModelCardData(
        **licences.of_base(settings),
        language=["zh", "en"],
        pipeline_tag="text-to-image",
        library_name="diffusers",
        tags=["lora", "text-to-image", "storyboard"],
        frameworks=["pytorch"],
        tasks=["text-to-image-synthesis"],
        **fields,
        widget=[  # the hub's gallery
            {
                "text": panel.prompt,
                "parameters": {"negative_prompt": panel.negative_prompt},
                "output": {"url": panel.drawn.file},
            }
            for panel in panels
        ],
    )
    return _yaml(data.to_dict()).strip()


class _Dumper(yaml.SafeDumper):
    """YAML in which texts with angle brackets or new lines stand in double quotes, escaped."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.search(r"[<>\n]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _yaml(fields: dict[str, object]) -> str:
    """``fields`` as YAML without an angle bracket, which a page might take for HTML."""
    content = yaml.dump(fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=ONE_LINE)
    return content.replace("<", r"\x3C").replace(">", r"\x3E")


def _is_public(base: Base) -> bool:
    """Whether people find the base at Hugging Face."""
    return bool(base.huggingface) and base.name in bases.names()


def _training_facts(base: Base, metadata: dict[str, str], panel: PanelRecord) -> dict[str, str]:
    def fact(name: str) -> str:
        return escaped(metadata.get(name, "?"))

    rank, alpha = (fact(f"ss_network_{name}") for name in ("dim", "alpha"))
    facts = {
        "底模 base": escaped(base.name),
        "秩 rank / alpha": f"{rank} / {alpha}",
        "训练步数 steps": fact("ss_steps"),
        "批大小 batch size": fact("ss_batch_size_per_device"),
        "学习率 learning rate": fact("ss_learning_rate"),
        "随机种子 seed": fact("ss_seed"),
        "分辨率 resolution": fact("modelspec.resolution"),
        "SHA-256": f"`{panel.lora.digest}`",
    }
    if panel.base.prediction_type != "epsilon":
        zero_terminal_snr = ", zero terminal SNR" if panel.base.zero_terminal_snr else ""
        facts["预测 prediction"] = panel.base.prediction_type + zero_terminal_snr
    return facts


def _drawing_facts(panel: PanelRecord) -> str:
    """What all panels are drawn with, in a line."""
    facts = [
        panel.sampler,
        panel.schedule_type,
        f"{panel.steps} steps",
        f"CFG {panel.guidance_scale:g}",
        f"{panel.width} × {panel.height}",
    ]
    if panel.lora and panel.lora.strength != 1:
        facts.append(f"LoRA strength {panel.lora.strength:g}")
    if panel.clip_skip:
        facts.append(f"clip skip {panel.clip_skip}")
    return ", ".join(facts)


def _prompt_rows(panels: Sequence[PanelRecord]) -> list[tuple]:
    return [
        (
            number,
            escaped(panel.prompt) + _followed(panel),
            escaped(panel.negative_prompt),
            panel.seed,
        )
        for number, panel in enumerate(panels, 1)
    ]


def _followed(panel: PanelRecord) -> str:
    """What a panel follows other than its prompt."""
    text = ""
    if panel.reference:
        text += f" · 参考图 reference: [{panel.reference.control}]({panel.reference.file})"
    if panel.character:
        text += f" · 角色一致 character consistency: {panel.character.method}"
    return text


def _snippet(base: Base) -> list[str]:
    if not _is_public(base):
        return []
    return [
        "```python",
        "import torch",
        f"from diffusers import {base.pipeline}",
        "",
        f'pipe = {base.pipeline}.from_pretrained("{base.huggingface}", '
        'torch_dtype=torch.float16, variant="fp16").to("cuda")',
        'pipe.load_lora_weights(".", weight_name="lora.safetensors")'
        "  # 本仓库的文件夹 the folder of this repository",
        "```",
        "",
    ]


def _data(settings: Settings, metadata: dict[str, str], report: CleaningReport | None) -> list[str]:
    name = escaped(data_card.dataset_name(settings))
    if report is None:
        return [f"{name}: {escaped(metadata.get('ss_num_train_images', '?'))} 张图片 pictures."]

    kept, dropped, unreadable = map(len, (report.captions, report.dropped, report.unreadable))
    counts = (
        f"共 {report.total} 张，保留 {kept}，去掉 {dropped}，收集时略过 {unreadable} · "
        f"{report.total} pictures, {kept} kept, {dropped} dropped, {unreadable} left out before"
    )
    rows = [(escaped(count.operator), count.kept, count.dropped) for count in report.operators]
    return [
        f"{name}: {counts}. Data-Juicer:",
        "",
        *table(["算子 operator", "保留 kept", "去掉 dropped"], rows),
        "",
        "菜谱与漏斗见 Recipe and funnel: [data_card.json](data_card.json).",
    ]
