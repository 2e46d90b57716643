"""What depends on an architecture, in one record; each family fills it in, in a file of its own."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

# JSON file in a diffusers folder -> key -> value; a tuple holds alternatives, None is an absent key
Configs = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class MemoryNeeds:
    """GiB of a card at full size; where they were measured stands in ``models/memory.py``.

    Attributes:
        unet: Weights in 16 bits, LoRA and AdamW's moments.
        text: Text encoders in 16 bits.
        training: Activations of a training picture of 1024 x 1024.
        training_checkpointed: The same with gradient checkpointing.
        drawing: A picture of 1024 x 1024 that is being denoised.
        decoding: The VAE in fp32 on a whole picture of 1024 x 1024.
    """

    unet: float
    text: float
    training: float = 5.6
    training_checkpointed: float = 0.8
    drawing: float = 1.6
    decoding: float = 5.4


@dataclass(frozen=True)
class SingleFile:
    """How a checkpoint in one file, in the original layout, names its tensors.

    Attributes:
        prefixes: Component -> prefix of its tensors. The VAE may be missing from a file.
        first_layer: Tensor of shape (width, channels of the latents, 3, 3).
        left_out: Component -> part of its names, after the prefix, that older files leave out.
    """

    prefixes: Mapping[str, str]
    first_layer: str
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lookalike:
    """A model that resembles a family and cannot be fine-tuned here.

    Attributes:
        title: How people call it.
        configs: What tells a diffusers folder; empty where it has none.
        prefix: Start of names of tensors that only it has in a single file, if any.
        hub_id: Its id at the hubs, if it is refused by that.
        advice: What to do instead; empty: the families that there are.
    """

    title: str
    configs: Configs = field(default_factory=dict)
    prefix: str | None = None
    hub_id: str | None = None
    advice: str = ""

    def matches(self, configs: Configs) -> bool:
        """Whether a diffusers folder with these JSON files, by name, is such a model."""
        return bool(self.configs) and _matches(self.configs, configs)

    def names(self, tensors: Collection[str]) -> bool:
        """Whether a single file with tensors of these names is such a model."""
        return self.prefix is not None and any(name.startswith(self.prefix) for name in tensors)


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
        configs: What tells a diffusers folder; never its name.
        classes: Component with weights -> module and class that hold them.
        tokenizers: Text encoder -> module and class of its tokenizer.
        text: Module and class that encode its prompts (``models.text_encoding.TextEncoding``).
        text_length: Tokens that a prompt is padded to.
        forward: Module and function of DiffSynth-Studio that calls the UNet in training.
        kohya_prefixes: Component -> prefix of its modules in kohya's form of a LoRA.
        module_names: Component -> words that names of its modules are made of, as regular
            expressions (``module_names.py``).
        lora_keys: Regular expression that finds only its tensors among the names of any LoRA; ""
            where there is none.
        lora_versions: The same for what metadata say in ``ss_base_model_version`` and
            ``modelspec.architecture``.
        memory: What it needs of a card.
        comfyui: Its nodes.
        use: What opens its LoRA, for the model card.
        single_file: How a checkpoint in one file names its tensors; None where there are none.
        lookalikes: Models that resemble it and are refused by name.
        chinese: Whether it was taught in Chinese.
        clip_layer: Layer of CLIP that prompts are usually read at, counted from the end; None
            where there is no CLIP.
        latent_channels: Channels of the latents that the UNet takes.
        vae_scale_factor: Pixels of a picture for one of the latents, along a side.
    """

    name: str
    title: str
    pipeline: str
    image_to_image: str
    configs: Configs
    classes: Mapping[str, tuple[str, str]]
    tokenizers: Mapping[str, tuple[str, str]]
    text: tuple[str, str]
    text_length: int
    forward: tuple[str, str]
    kohya_prefixes: Mapping[str, str]
    memory: MemoryNeeds
    comfyui: ComfyNodes
    use: str
    module_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lora_keys: str = ""
    lora_versions: str = ""
    single_file: SingleFile | None = None
    lookalikes: tuple[Lookalike, ...] = ()
    chinese: bool = False
    clip_layer: int | None = None
    latent_channels: int = 4
    vae_scale_factor: int = 8

    @property
    def components(self) -> tuple[str, ...]:
        """Folders that hold weights, sorted."""
        return tuple(sorted(self.classes))

    def recognises(self, configs: Configs) -> bool:
        """Whether a diffusers folder with these JSON files, by name, is of this family."""
        return _matches(self.configs, configs)

    def names(self, tensors: Collection[str]) -> bool:
        """Whether a single file with tensors of these names is of this family, VAE or not."""
        if self.single_file is None:
            return False

        prefixes = [
            prefix for component, prefix in self.single_file.prefixes.items() if component != "vae"
        ]
        whole = all(any(name.startswith(prefix) for name in tensors) for prefix in prefixes)
        return whole and self.single_file.first_layer in tensors


def _matches(expected: Configs, configs: Configs) -> bool:
    """Whether the JSON files ``configs`` have all the values that are ``expected``."""
    for file, values in expected.items():
        for key, value in values.items():
            alternatives = value if isinstance(value, tuple) else (value,)
            if configs.get(file, {}).get(key) not in alternatives:
                return False
    return True
