"""What depends on an architecture, in one record; each family fills it in, in a file of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MemoryNeeds:
    """GiB of a card at full size; sources in ``models/memory.py``.

    Attributes:
        unet: Weights in 16 bits, LoRA and AdamW's moments.
        text: Text encoders in 16 bits.
    """

    unet: float
    text: float


@dataclass(frozen=True)
class NodeType:
    """What a ComfyUI node takes and gives.

    Attributes:
        inputs: Name -> type, in ComfyUI's order.
        outputs: Types.
        pack: Where ComfyUI's manager finds it, by the names that its canvas files have.
    """

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    pack: Mapping[str, str] = field(default_factory=lambda: {"cnr_id": "comfy-core"})


@dataclass(frozen=True)
class ComfyNodes:
    """Which of ComfyUI's nodes load and condition a family.

    Attributes:
        loaders: Node number, "1" to "9" with a "1" -> class and the input that names its file.
        model, clip, vae: Node number and output that each comes from.
        text: Class of the node that encodes a prompt, and its inputs for the encoder and the text.
        controlnet: Class of the node that loads a ControlNet.
        files: Usual file of each loader's input.
        note: What the graph says of files and node packs.
        weighs_words: Whether the text node reads ``(word:1.3)``.
        predicts_v: Whether a node can tell ComfyUI that the UNet predicts v.
        empty_is_zero: Whether an empty negative prompt stands for zeros.
        folder_loader: Like an entry of ``loaders``, what takes the place of "1" for a base that is
            a diffusers folder; None where "1" loads that, too.
        pack: Who provides the nodes, as messages call it.
        pack_nodes: Class -> what it takes and gives, of nodes that ComfyUI itself does not have.
        chooses_in_braces: Whether the text node chooses one of ``{a|b}`` at random.
    """

    loaders: Mapping[str, tuple[str, str]]
    model: tuple[str, int]
    clip: tuple[str, int]
    vae: tuple[str, int]
    text: tuple[str, str, str]
    controlnet: str
    note: str
    files: Mapping[str, str] = field(default_factory=dict)
    weighs_words: bool = True
    predicts_v: bool = True
    empty_is_zero: bool = False
    folder_loader: tuple[str, str] | None = None
    pack: str = "ComfyUI"
    pack_nodes: Mapping[str, NodeType] = field(default_factory=dict)
    chooses_in_braces: bool = False


@dataclass(frozen=True)
class Family:
    """An architecture: how it is recognised, read, conditioned, trained, drawn and passed on.

    Attributes:
        name: How records and messages call it.
        title: How people call it.
        pipeline: diffusers' pipeline class.
        image_to_image: diffusers' pipeline class that starts from a picture.
        configs: What tells a diffusers folder: file -> key -> value in its JSON.
        single_file: What tells a file in the original layout: component -> prefix of its tensors.
        classes: Component with weights -> module and class that hold them.
        tokenizers: Text encoder -> module and class of its tokenizer.
        text: Which encoding of ``models/conditioning.py`` its prompts take, ``"clip"`` or ``"chatglm"``.
        chinese: Whether it was taught in Chinese.
        clip_layer: Layer of CLIP that prompts are usually read at, counted from the end; None
            where there is no CLIP.
        forward: Module and function of DiffSynth-Studio that calls the UNet in training.
        kohya_prefixes: Component -> prefix of its modules in kohya's form of a LoRA.
        memory: What it needs of a card.
        comfyui: Its nodes.
        use: What opens its LoRA, for the model card.
    """

    name: str
    title: str
    pipeline: str
    image_to_image: str
    configs: Mapping[str, Mapping[str, object]]
    classes: Mapping[str, tuple[str, str]]
    tokenizers: Mapping[str, tuple[str, str]]
    text: str
    forward: tuple[str, str]
    kohya_prefixes: Mapping[str, str]
    memory: MemoryNeeds
    comfyui: ComfyNodes
    use: str
    single_file: Mapping[str, str] = field(default_factory=dict)
    chinese: bool = False
    clip_layer: int | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """Folders that hold weights, sorted."""
        return tuple(sorted(self.classes))

    def recognises(self, configs: Mapping[str, Mapping[str, object]]) -> bool:
        """Whether a diffusers folder with these JSON files, by name, is of this family."""
        return all(
            configs.get(file, {}).get(key) == value
            for file, facts in self.configs.items()
            for key, value in facts.items()
        )
