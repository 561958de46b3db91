"""Building and finishing SVG that is placed inside an HTML page."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

NAMESPACE = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"

# Characters that XML cannot hold, not even escaped.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def root(width: float, height: float, label: str) -> Element:
    """An empty picture of that size in pixels; `label` is what a screen reader says."""
    return Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "width": number(width),
            "height": number(height),
            "role": "img",
            "aria-label": clean(label),
            "font-family": "system-ui, sans-serif",
        },
    )


def add(parent: Element, tag: str, **attributes: str | float) -> Element:
    """Append an element; ``stroke_width=2`` becomes ``stroke-width="2"``."""
    values = {
        name.replace("_", "-"): clean(value) if isinstance(value, str) else number(value)
        for name, value in attributes.items()
    }
    return SubElement(parent, tag, values)


def add_text(
    parent: Element,
    text: str,
    x: float,
    y: float,
    *,
    size: float,
    fill: str,
    anchor: str = "middle",
    bold: bool = False,
    turned: bool = False,
) -> None:
    """Append text whose capitals are centred on the height `y`; `turned` text runs upwards."""
    element = add(parent, "text", x=x, y=y + 0.36 * size, fill=fill, font_size=size)
    if anchor != "start":
        element.set("text-anchor", anchor)
    if bold:
        element.set("font-weight", "600")
    if turned:
        element.set("transform", f"rotate(-90 {number(x)} {number(y)})")
    element.text = clean(text)


def add_title(parent: Element, text: str) -> None:
    """Say what `parent` shows to readers of screens, and to a pointer that rests on it."""
    add(parent, "title").text = clean(text)


def number(value: float) -> str:
    """At most two decimals: finer than any screen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def clean(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def to_string(element: Element) -> str:
    """The picture as XML."""
    return ElementTree.tostring(element, encoding="unicode")


def inline(document: str, label: str, prefix: str) -> str:
    """A whole SVG document made fit to stand beside others in one page.

    Metadata and document type go, coordinates lose needless digits, and `prefix` keeps the ids of
    several pictures apart.

    Args:
        document: as a plotting library writes it.
        label: what a screen reader says.
        prefix: put before every id, different for every picture of a page.
    """
    picture = ElementTree.fromstring(document)
    for element in picture.iter():
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        if link := element.attrib.pop(_LINK, None):
            element.set("href", link)
        for name, value in element.attrib.items():
            element.set(name, _point_to(prefix, value) if name != "id" else prefix + value)
        if path := element.get("d"):
            element.set("d", re.sub(r"-?\d+\.\d+", lambda match: number(float(match[0])), path))
    for metadata in picture.findall("metadata"):
        picture.remove(metadata)
    picture.attrib.pop("version", None)
    picture.attrib |= {"xmlns": NAMESPACE, "role": "img", "aria-label": clean(label)}
    return to_string(picture)


def _point_to(prefix: str, value: str) -> str:
    """An attribute's value with its references to ids prefixed."""
    if value.startswith("#") and not re.fullmatch(r"#[0-9a-fA-F]{3,8}", value):
        return f"#{prefix}{value[1:]}"
    return re.sub(r"url\(#", f"url(#{prefix}", value)
