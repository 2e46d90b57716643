"""Write docs/messages.md, every error that a user can meet, from the code: python -m tools.messages

A message is read where its exception is made; what is filled in when it is raised stands in braces.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from storyboard import errors

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "messages.md"
TITLE = """# Every error of this package

Written by `make messages` from the code. What is filled in stands in {braces}.
Each is one sentence: what is wrong, where, what to do.
All are a `StoryboardError`; what else ends a cell is a bug.

这里列出本项目会给出的所有错误信息，由代码自动生成；花括号里是运行时填入的内容。
"""


@dataclass(frozen=True)
class Message:
    """One place where an error is made.

    Attributes:
        kind: Name of the exception.
        module: Path of the module below ``storyboard/``.
        text: The sentence, with ``{names}`` for what is filled in.
    """

    kind: str
    module: str
    text: str


def kinds() -> dict[str, str]:
    """Exceptions of ``storyboard.errors``: name -> first line of its docstring."""
    found = {
        name: (value.__doc__ or "").split("\n")[0]
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StoryboardError)
    }
    return dict(sorted(found.items()))


def messages() -> list[Message]:
    """Every message of the package, in the order of modules and lines."""
    found = []
    for path in sorted((ROOT / "storyboard").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = path.relative_to(ROOT / "storyboard").as_posix()
        for call, scope in _calls(tree):
            text = _text(call.args[0], _assigned(tree) | _assigned(scope)) if call.args else ""
            found.append(Message(call.func.id, module, " ".join(text.split())))
    return found


def _calls(tree: ast.Module) -> list[tuple[ast.Call, ast.AST]]:
    """Where an exception of ours is made, each with the function around it."""
    names = kinds()
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    def innermost(call: ast.Call) -> ast.AST:
        around = [scope for scope in scopes if scope.lineno <= call.lineno <= scope.end_lineno]
        return max(around, key=lambda scope: scope.lineno, default=tree)

    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    return [(call, innermost(call)) for call in sorted(calls, key=lambda call: call.lineno)]


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """What names stand for that are assigned once in ``scope``."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def _text(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """The text that ``node`` comes to, with braces round what only a run knows."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.FormattedValue):
        return _filled(node.value, names)
    return _filled(node, names)


def _filled(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """What stands for a value: its own text if the code knows it, else a name in braces."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        return _text(node, names)
    if isinstance(node, ast.IfExp):
        return f"{_filled(node.body, names)} / {_filled(node.orelse, names)}".strip(" /")
    if isinstance(node, ast.Name) and isinstance(names.get(node.id), ast.Constant | ast.JoinedStr):
        return _text(names[node.id], names)
    if isinstance(node, ast.Attribute):
        return f"{{{node.attr}}}"
    if isinstance(node, ast.Subscript):
        return _filled(node.value, {})
    if isinstance(node, ast.Call) and node.args:
        return _filled(node.args[0], {})
    if isinstance(node, ast.Name):
        return f"{{{node.id}}}"
    return "{…}"


def document() -> str:
    """The whole of docs/messages.md."""
    found = messages()
    parts = [TITLE]
    for kind, meaning in kinds().items():
        rows = sorted({(each.module, each.text) for each in found if each.kind == kind})
        if not rows:
            continue
        lines = [f"- {_escaped(text)} `{module}`" for module, text in rows]
        parts.append(f"## {kind}\n\n{meaning}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """``text`` for Markdown, as it stands."""
    for sign in "\\`*_<>[]|":
        text = text.replace(sign, f"\\{sign}")
    return text


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
