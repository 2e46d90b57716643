"""What a graph says to the person who opens it: which files it needs, and what draws otherwise."""

from collections.abc import Sequence

from storyboard import prompts
from storyboard.exporting.comfyui import schedule, text
from storyboard.exporting.comfyui.panel import family_of
from storyboard.models import bases
from storyboard.records import TEXTS, PanelRecord

EXACT_SEEDS = 2**53  # JavaScript's integers are exact up to here

FOLDER = (
    "The base is a folder in diffusers' layout: copy it, under the name in the loader, into "
    "models/diffusers. 基础模型是 diffusers 目录：请按加载节点里的名字放入 models/diffusers。"
)
LORA = "The LoRA, outputs/lora/lora.safetensors, goes into models/loras. LoRA 放入 models/loras。"
OTHER_LORA = (
    "The LoRA file that was given to render() goes into models/loras, under the name in the "
    "loader. 出图时用的 LoRA 文件请按加载节点里的名字放入 models/loras。"
)
V_PREDICTION = (
    "This base predicts v: ModelSamplingDiscrete tells it to ComfyUI, whose loader knows it by "
    "itself only of an SDXL file with the key v_pred. With zero terminal SNR and a number of steps "
    "that does not divide 1000, timesteps may differ by one. "
    "本模型为 v-prediction，由 ModelSamplingDiscrete 节点告知 ComfyUI。"
)
CONTROL = (
    "Copy panel-*-reference.png from outputs/story into ComfyUI's input folder, and the weights of "
    "each ControlNet into models/controlnet under the name in its loader. "
    "请把 outputs/story 里的 panel-*-reference.png 放入 ComfyUI 的 input 目录，"
    "把 ControlNet 权重按加载节点里的文件名放入 models/controlnet。"
)
NO_WEIGHTS = (
    "{pack} knows no weights: (word:1.3) and [word] stand here as plain words, those pictures "
    "differ, and the weights are not read back from this graph. "
    "{pack} 不支持权重：(word:1.3)、[word] 在这里只是普通文字，这些画面会不同，"
    "也无法从此图读回权重。"
)
LIGHT_WEIGHTS = (
    "Words that weigh less than 1 are masked by Storyboard and weakened by ComfyUI: those pictures "
    "differ. 权重小于 1 的词，Storyboard 用遮罩，ComfyUI 则减弱：这些画面会不同。"
)
LONG_PROMPT = (
    "A prompt is longer than CLIP reads at once, and where Storyboard cut it is not known or is "
    "within a word; ComfyUI cuts it after every 75 tokens: those pictures differ. "
    "有的提示词超出 CLIP 一次读取的长度，切分位置不明或在词中，"
    "ComfyUI 每 75 个 token 切一次：这些画面会不同。"
)
LATE_END = (
    "ComfyUI cannot end guidance or a ControlNet within the first steps of {family}: where that "
    "was set, they end after step {steps}. "
    "ComfyUI 无法在 {family} 的最初几步内结束引导或 ControlNet：会在第 {steps} 步之后结束。"
)
SEEDS = (
    "A seed above 2^53 loses digits on ComfyUI's canvas: use workflow_api.json, or choose a "
    "smaller one. 大于 2^53 的种子在画布上会失真：请用 workflow_api.json，或换小一些的种子。"
)


def note(panels: Sequence[PanelRecord], loads_folder: bool) -> str:
    """What the graph of ``panels`` says, a line each.

    Args:
        loads_folder: The base is loaded as a diffusers folder.
    """
    first = panels[0]
    lines = [FOLDER if loads_folder else family_of(first).comfyui.note]
    if first.lora:
        lines.append(OTHER_LORA if first.lora.text_encoder else LORA)
    if first.base.name in bases.names():
        lines.append(bases.get(first.base.name).comfy_note)
    if first.base.prediction_type == "v_prediction":
        lines.append(V_PREDICTION)
    if any(panel.reference for panel in panels):
        lines.append(CONTROL)
    lines += _of_prompts(panels)

    if late := {step for panel in panels if (step := schedule.late_end(panel))}:
        steps = ", ".join(map(str, sorted(late)))
        lines.append(LATE_END.format(family=family_of(first).title, steps=steps))
    if any(panel.seed > EXACT_SEEDS for panel in panels):
        lines.append(SEEDS)
    return "\n".join(filter(None, lines))


def _of_prompts(panels: Sequence[PanelRecord]) -> list[str]:
    """What ComfyUI reads otherwise in these prompts."""
    comfyui = family_of(panels[0]).comfyui
    texts = [getattr(panel, name) for panel in panels for name in TEXTS]
    weights = [weight for each in texts for _, weight in prompts.parse(each)]
    if not comfyui.weighs_words:
        differ = any(weight != 1 for weight in weights)
        return [NO_WEIGHTS.format(pack=comfyui.pack)] if differ else []

    lines = []
    if any(weight < 1 for weight in weights):
        lines.append(LIGHT_WEIGHTS)
    if any(text.cut_elsewhere(panel, name) for panel in panels for name in TEXTS):
        lines.append(LONG_PROMPT)
    return lines


def mentions_cut(note: str) -> bool:
    """Whether ``note`` says that a prompt may be cut elsewhere."""
    return LONG_PROMPT in note
