"""The story as a graph of ComfyUI, and back.

Where a node is decided:

- ``models/families/*.py``, ``Family.comfyui``: the nodes that load and condition an architecture.
- ``nodes.py``: what every other node takes and gives.
- ``numbers.py``: the numbers of nodes in a graph.
- ``graph.py``: loaders, LoRA, sampler; ``text.py``: prompts; ``references.py``: ControlNets and
  pictures to start from; ``schedule.py``: the step at which something ends.
- ``notes.py``: what the graph says to a person.
- ``canvas.py``: the form that ComfyUI's page opens.
- ``storyboard/other_tools/comfyui_syntax.py``: prompts as ComfyUI reads them.
- ``reading.py``: from a graph back to the story.
"""
