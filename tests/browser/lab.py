"""A notebook in JupyterLab, as a person at a keyboard uses it.

Cells have the names of tools/notebook.md: ``lab.run("story")``, ``lab.output_of("clean")``.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, ViewportSize

from tests.browser.server import Server

RUN_TIMEOUT = 1_200_000  # milliseconds for all cells, on a busy machine
DRAWN = 300  # milliseconds in which a new size or theme is drawn
FRAME_TIMEOUT = 30_000  # milliseconds after which a page is held to draw no more frames
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
# whether no cell waits, and each ran but where one failed
FINISHED = """([prompts, errors]) => {
  const texts = [...document.querySelectorAll(prompts)].map(each => each.textContent);
  const waiting = texts.some(text => text.includes('*'));
  const failed = document.querySelector(errors) !== null;
  return !waiting && (failed || texts.every(text => /\\d/.test(text)));
}"""
# whether the page draws a frame within some milliseconds
DRAWS = """timeout => new Promise(done => {
  requestAnimationFrame(() => done(true));
  setTimeout(() => done(false), timeout);
})"""
# the middle of a text within a line of an editor
PLACE = """(line, text) => {
  const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const start = walker.currentNode.data.indexOf(text);
    if (start < 0) continue;
    const range = document.createRange();
    range.setStart(walker.currentNode, start);
    range.setEnd(walker.currentNode, start + text.length);
    const box = range.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }
}"""


class Lab:
    """The notebook ``name`` of a server's folder, open in a page of a browser.

    Attributes:
        console: The errors that the page's console had.
    """

    def __init__(
        self, new_page: Callable[[], tuple[Page, list[str]]], server: Server, name: str
    ) -> None:
        self.new_page, self.path = new_page, server.folder / name
        self.names = [cell.id for cell in nbformat.read(self.path, 4).cells]
        workspace = self.path.stem.replace(".", "-")  # a name with a dot is no workspace's
        self.address = server.address(f"lab/workspaces/{workspace}/tree/{name}")
        self._open()

    def _open(self) -> None:
        self.page, self.console = self.new_page()
        self.page.goto(self.address)
        last = self.page.locator(".jp-Notebook .jp-Cell").nth(len(self.names) - 1)
        last.wait_for(state="attached")
        self.page.evaluate("window.jupyterapp.shell.collapseLeft()")
        self.page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for()

    def command(self, name: str, **arguments: object) -> None:
        """Run one of JupyterLab's own commands."""
        self.page.evaluate(
            "([name, arguments]) => window.jupyterapp.commands.execute(name, arguments)",
            [name, arguments],
        )

    def cell(self, name: str, kind: str = "code") -> Locator:
        index = self.names.index(f"{name}-{kind}")
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output_of(self, name: str) -> Locator:
        """The outputs of a cell, scrolled to: JupyterLab does not draw what is out of sight."""
        output = self.cell(name).locator(".jp-Cell-outputArea")
        output.evaluate("output => output.scrollIntoView()")
        return output

    def text_of(self, name: str) -> str:
        return self.output_of(name).inner_text()

    def pictures_of(self, name: str) -> list[str]:
        """The address of each picture, which holds its bytes."""
        pictures = self.output_of(name).locator("img").all()
        return [picture.get_attribute("src") or "" for picture in pictures]

    def tracebacks(self) -> list[str]:
        """Those that are shown."""
        return self.page.locator(f".jp-Notebook {ERROR}").all_inner_texts()

    def menu(self, *names: str) -> None:
        for name in names:
            self.page.get_by_role("menuitem", name=name, exact=True).click()

    def run_all(self) -> None:
        """Run all cells, until the last has run or one has failed."""
        self.menu("Run", "Run All Cells")
        self._wait(".jp-Notebook .jp-CodeCell .jp-InputArea-prompt")

    def run(self, name: str) -> None:
        """Run one cell by the keyboard, until it has run or failed."""
        cell = self.cell(name)
        cell.locator(".cm-content").click(position={"x": 2, "y": 4})
        prompt = cell.locator(".jp-InputArea-prompt")
        before = prompt.text_content()
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function(
            "([prompt, before]) => prompt.textContent !== before",
            arg=[prompt.element_handle(), before],
        )
        self._wait(".jp-Notebook .jp-CodeCell.jp-mod-selected .jp-InputArea-prompt")

    def _wait(self, prompts: str) -> None:
        self.page.wait_for_function(FINISHED, arg=[prompts, ERROR], timeout=RUN_TIMEOUT)

    def replace(self, name: str, line: str, word: str, by: str) -> None:
        """Double-click on a ``word`` in the line of a cell that holds ``line``, and type."""
        found = self.cell(name).locator(".cm-line", has_text=line)
        found.click(position={"x": 2, "y": 4})  # waits until it stays where it is
        self.page.mouse.dblclick(*found.evaluate(PLACE, word))
        self.page.keyboard.type(by)
        found.filter(has_text=by).wait_for()

    def save(self) -> Path:
        """The notebook's file, with its outputs."""
        self.page.keyboard.press("Control+s")
        self.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty").wait_for(state="detached")
        return self.path

    def set_look(self, width: int, theme: str) -> None:
        """The window's width in pixels, and "Light" or "Dark"."""
        self._resize({"width": width, "height": 900})
        self.command("apputils:change-theme", theme=f"JupyterLab {theme}")
        light = str(theme == "Light").lower()
        self.page.locator(f"body[data-jp-theme-light='{light}']").wait_for(state="attached")
        self.page.wait_for_timeout(DRAWN)

    def screenshot(self, name: str, path: Path) -> None:
        """A cell with its outputs, in a window that grows until it is high enough for all of it."""
        size = self.page.viewport_size
        height = int(self.cell(name).evaluate("cell => cell.scrollHeight")) + 200
        if height > size["height"]:
            self._resize(size | {"height": height})
        cell = self.cell(name)
        cell.evaluate("cell => cell.scrollIntoView({block: 'start'})")
        self.page.wait_for_timeout(DRAWN)
        cell.screenshot(path=path, animations="disabled")

    def _resize(self, size: ViewportSize) -> None:
        """Chromium may draw no frame ever after on a page that it resizes beside other work.

        Neither a screenshot nor a click ends then. A new page of the same browser draws.
        """
        self.page.set_viewport_size(size)
        if self.page.evaluate(DRAWS, FRAME_TIMEOUT):
            return
        warnings.warn(f"{self.path.name}: the page drew no frame any more", stacklevel=2)
        assert self.console == []  # it ends with the page
        self.save()
        self.page.close()
        self._open()
        self.page.set_viewport_size(size)
