"""Whether what we show is legible and fits: measured in the page."""

from playwright.sync_api import Page

LEAST_CONTRAST = 4.5  # https://www.w3.org/TR/WCAG21/#contrast-minimum
# Texts of ours below that contrast, with the ratio; the background is what lies behind, blended.
FAINT = """least => {
  const channels = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    const unit = colour.startsWith('color(') ? 255 : 1;
    return [...parts.slice(0, 3).map(part => part * unit), parts[3] ?? 1];
  };
  const over = (top, bottom) =>
    [0, 1, 2].map(i => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
  const background = element => {
    if (element === null) return [255, 255, 255, 1];
    const own = channels(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, background(element.parentElement));
  };
  const opacity = element =>
    element === null ? 1 : getComputedStyle(element).opacity * opacity(element.parentElement);
  const luminance = colour => {
    const [r, g, b] = colour.slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  for (const root of document.querySelectorAll('.sb')) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
      if (!text || element.tagName === 'STYLE') continue;
      const style = getComputedStyle(element), behind = background(element);
      const ink = channels(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
      ink[3] *= opacity(element);
      const both = [luminance(over(ink, behind)), luminance(behind)];
      const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
      if (contrast < least) faint.push(`${text}: ${contrast.toFixed(1)}`);
    }
  }
  return [...new Set(faint)];
}"""
# What is cut off: ours beyond the window or its output, what is no table or code beyond ours.
CUT_OFF = """() => {
  const cut = [];
  const check = (element, outer, what) => {
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > outer.right + 1 || box.left < outer.left - 1))
      cut.push(`${what}: ${element.outerHTML.slice(0, 80)} ${box.left}-${box.right}, ` +
        `${outer.left}-${outer.right}`);
  };
  const window_ = {left: 0, right: document.documentElement.clientWidth};
  for (const root of document.querySelectorAll('.sb')) {
    check(root, window_, 'beyond the window');
    check(root, root.parentElement.getBoundingClientRect(), 'beyond the output');
    const scrolls = getComputedStyle(root).overflowX === 'auto';
    for (const element of root.querySelectorAll('*'))
      if (!scrolls || !element.closest('table, pre'))
        check(element, root.getBoundingClientRect(), 'beyond ours');
  }
  return cut;
}"""
BROKEN = """() => [...document.images].filter(each => !each.complete || !each.naturalWidth)
  .map(each => each.outerHTML.slice(0, 80))"""


def texts(page: Page) -> int:
    """How many elements of ours have text of their own."""
    own = "element => [...element.childNodes].some(each => each.nodeType === 3)"
    return page.evaluate(f"[...document.querySelectorAll('.sb *')].filter({own}).length")


def faint(page: Page) -> list[str]:
    """Texts of ours that are hard to read against what lies behind them."""
    return page.evaluate(FAINT, LEAST_CONTRAST)


def cut_off(page: Page) -> list[str]:
    """Elements of ours that reach beyond their place and cannot be scrolled to."""
    return page.evaluate(CUT_OFF)


def broken_pictures(page: Page) -> list[str]:
    """Pictures that did not load."""
    return page.evaluate(BROKEN)
