"""matplotlib's SVG, made fit to stand inside a page that has a light and a dark look."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from segcoord.evaluation.report.charts import TIP, Theme

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


# Colours that no drawing has by chance, each of which stands for a colour of the page.
_VARIABLES = {
    "#010203": "--ink",
    "#010204": "--muted",
    "#010205": "--line",
    "#010206": "--first",
    "#010207": "--second",
    "#010208": "--pointed",
}
PAGE = Theme(*_VARIABLES)
ElementTree.register_namespace("", _NAMESPACE[1:-1])


ElementTree.register_namespace("xlink", _LINK[1:].partition("}")[0])


def inline(figure: Figure, name: str, caption: str) -> Markup:
    """A chart drawn with the theme `PAGE`, as an <svg> to stand in HTML.

    Text stays text, in the page's font. Places to point at get `data-tip`, which the page's script
    shows; one of them takes part in the order of the Tab key, arrows lead to the others.

    Args:
        figure: from `charts`.
        name: differs from that of the other charts of the page.
        caption: what a screen reader says of the whole.
    """
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(file.getvalue())
    text = ElementTree.tostring(root, encoding="unicode")
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    for parent in root.iter():
        for child in [*parent]:
            style = child.find(f"{_NAMESPACE}style")
            if style is not None:  # it would hold for the whole page
                child.remove(style)
    first = True
    for element in root.iter():
        gid = element.attrib.pop("id", None)
        if gid is not None and gid.startswith(TIP):
            told = gid.removeprefix(TIP)
            order = "0" if first else "-1"
            element.attrib |= {"data-tip": told, "tabindex": order, "role": "img"}
            element.set("aria-label", told)
            first = False
        elif gid in used:
            element.set("id", f"{name}-{gid}")
        if _LINK in element.attrib:
            element.set(_LINK, f"#{name}-{element.attrib[_LINK][1:]}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("#", f"#{name}-"))
        if "style" in element.attrib:
            element.set("style", _style(element.attrib["style"]))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"class": "chart", "role": "group", "aria-label": caption}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _style(style: str) -> str:
    style = re.sub(r"font-family: [^;]+;? ?", "", style)
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var({variable})")
    return style
