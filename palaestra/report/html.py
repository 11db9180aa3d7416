"""HTML built from parts, where every string that is not HTML already becomes text."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from typing import Any

from palaestra.report.text import clean

VOID = {"meta", "img", "br"}


class Html(str):
    """Markup that was built here; anything else is text."""


def h(tag: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children are `Html`, lists of children, None, or text; `class_` and `data_x` become `class`, `data-x`."""
    head = [tag]
    for name, value in attributes.items():
        if value is not None:
            head.append(f'{name.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"')
    opening = f"<{' '.join(head)}>"
    return Html(opening if tag in VOID else f"{opening}{join(*children)}</{tag}>")


def join(*children: Any) -> Html:
    """Children side by side."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(html.escape(str(child), quote=True))
    return Html("".join(parts))


def outside(value: Any, longest: int = 160) -> Html:
    """Text from a run: cleaned, and isolated so that right-to-left letters do not move their neighbours."""
    return h("bdi", clean(value, longest))


def table(head: list[Any], rows: list[list[Any]], class_: str = "") -> Html:
    """A table that scrolls sideways by itself where the window is narrow; the first column heads each row."""
    body = [h("tr", h("th", row[0], scope="row"), [h("td", cell) for cell in row[1:]]) for row in rows]
    top = h("thead", h("tr", [h("th", cell, scope="col") for cell in head]))
    return h("div", h("table", top, h("tbody", body), class_=class_ or None), class_="scroll", tabindex="0")


def document(title: str, body: Html, data: str | None = None) -> str:
    """A whole page in the style of the report; with `data`, the JSON of its charts, also its script."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text() for name in ("page.css", "page.js"))
    allowed = f"script-src '{_hash(script)}'; " if data is not None else ""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; {allowed}base-uri 'none'; form-action 'none'"
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", clean(title)),
        h("style", Html(style)),
    )
    scripts = [h("script", Html(data), type="application/json", id="data"), h("script", Html(script))] if data else None
    return f"<!doctype html>\n{h('html', head, h('body', body, scripts), lang='en')}\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
