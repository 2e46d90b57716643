"""Write both notebooks from one source: python -m tools.make_notebook

``notebook.md`` has every cell once: Markdown in Chinese and in English, code with the few texts
that differ as ``{{Chinese|English}}``. ``baseline.ipynb`` is Chinese, ``baseline.en.ipynb``
English. Outputs that a notebook holds stay with cells whose source stays.
"""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tools" / "notebook.md"
NOTEBOOKS = {"zh": "baseline.ipynb", "en": "baseline.en.ipynb"}
CELL = re.compile(r"^=== (markdown|code) (\w+)(?: (\w+))?\n", re.MULTILINE)
LANGUAGE = re.compile(r"^--- (zh|en)\n", re.MULTILINE)
TEXTS = re.compile(r"\{\{(.*?)\|(.*?)\}\}")


def cells(text: str, language: str) -> list[NotebookNode]:
    """The cells of ``text``, the content of ``notebook.md``, in a language."""
    pieces = CELL.split(text)[1:]
    made = []
    for kind, name, tag, content in zip(*(pieces[i::4] for i in range(4)), strict=True):
        if kind == "markdown":
            parts = LANGUAGE.split(content)[1:]
            by_language = dict(zip(parts[::2], parts[1::2], strict=True))
            cell = nbformat.v4.new_markdown_cell(by_language[language].strip())
        else:
            cell = nbformat.v4.new_code_cell(_code(content.strip(), language))
        if tag:
            cell.metadata["tags"] = [tag]
        cell["id"] = f"{name}-{kind}"
        made.append(cell)
    return made


def _code(content: str, language: str) -> str:
    return TEXTS.sub(r"\1" if language == "zh" else r"\2", content)


def notebook(text: str, language: str) -> NotebookNode:
    """The notebook in a language, without outputs."""
    made = nbformat.v4.new_notebook(cells=cells(text, language))
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return made


def main() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    for language, name in NOTEBOOKS.items():
        made = notebook(text, language)
        path = ROOT / name
        if path.is_file():
            before = {cell.id: cell for cell in nbformat.read(path, 4).cells}
            for cell in made.cells:
                old = before.get(cell.id)
                if cell.cell_type == "code" and old and old.source == cell.source:
                    cell.outputs = old.outputs
        nbformat.write(made, path)


if __name__ == "__main__":
    main()
