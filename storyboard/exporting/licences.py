"""Under which licences a bundle is given away, and whom it credits."""

import re

from storyboard import resources
from storyboard.exporting import data_card
from storyboard.exporting.markdown import escaped
from storyboard.models import bases
from storyboard.models.run import check
from storyboard.settings import Settings

NOTICE = resources.path("NOTICE.md")
# Hugging Face's licence identifiers (https://huggingface.co/docs/hub/repositories-licenses)
OTHER = {"license": "other", "license_name": "as-the-base-model"}


def of_base(settings: Settings) -> dict[str, str]:
    """Licence fields of the model card's front matter."""
    base = check(settings)
    published = base.name in bases.names() and base.licence
    return dict(base.licence) if published else dict(OTHER)


def build(settings: Settings) -> str:
    """``LICENSES.md``: the LoRA's licence, and the credits of what lies in this repository."""
    fields = of_base(settings)
    parts = [fields.get("license_name", fields["license"]), fields.get("license_link")]
    name = " ".join(filter(None, parts))
    lines = [
        "# 许可与致谢 · Licences and credits",
        "",
        f"LoRA：遵循底模许可 · under its base model's licence: {name}.",
        "",
        "用 Data-Juicer (Apache 2.0) 清洗，DiffSynth-Studio (Apache 2.0) 训练，"
        "diffusers (Apache 2.0) 出图；story.pdf 的字体 Noto Sans CJK (OFL 1.1)。"
        " Cleaned by Data-Juicer, trained by DiffSynth-Studio, drawn by diffusers; "
        "story.pdf is set in Noto Sans CJK.",
        "",
    ]
    if settings.dataset == "sample" or check(settings).embedded:
        lines += [re.sub(r"^#", "##", NOTICE.read_text(encoding="utf-8"), count=1)]
    if settings.dataset != "sample":
        lines += [
            f"训练图片 · training pictures: {escaped(data_card.dataset_name(settings))}，"
            "其作者与许可请在发布前补充于此 · "
            "name their authors and licence here before you publish.",
            "",
        ]
    return "\n".join(lines)
