"""Keep what a run showed in a notebook: python -m tools.keep_outputs EXECUTED NOTEBOOK

``EXECUTED`` is ``outputs/baseline.executed.ipynb``, run from the repository's folder with its own
settings, so that paths are relative. Of each cell what it returned stays, as people see it before
they run anything: with small pictures, without execution counts, progress and printed lines.
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

PICTURE = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")
LARGE = ("preview-code", "render-code")  # whose pictures people look at
SIDES = {True: 176, False: 84}  # pixels, of large pictures and others
QUALITY = 72


def kept(cell: NotebookNode) -> list[NotebookNode]:
    """What ``cell`` returned, as HTML with small pictures."""
    side = SIDES[cell.id in LARGE]
    outputs = []
    for output in cell.outputs:
        if output.output_type != "execute_result" or "text/html" not in output.data:
            continue
        page = PICTURE.sub(lambda found: _smaller(found[1], side), output.data["text/html"])
        outputs.append(nbformat.v4.new_output("display_data", {"text/html": page}))
    return outputs


def _smaller(encoded: str, side: int) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def main() -> None:
    executed, target = map(Path, sys.argv[1:])
    shown = {cell.id: cell for cell in nbformat.read(executed, 4).cells}
    notebook = nbformat.read(target, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = kept(shown[cell.id])
            cell.execution_count = None
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main()
