"""What a search found as one page that needs nothing else: thumbnails, scores, captions."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
ol{list-style:none;padding:0;display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr))}
li{border:1px solid #8886;border-radius:.5rem;overflow:hidden}
img,.none{width:100%;height:12rem;object-fit:contain;background:#8882;display:block}
div{padding:.5rem .75rem;overflow-wrap:anywhere}p{margin:.25rem 0;font-size:.875rem}
"""


def results_page(title: str, hits: Sequence[tuple[Mapping[str, Any], bytes | None]]) -> str:
    """A page with a tile for each hit.

    Args:
        title: what was searched for.
        hits: each as `Hit.to_mapping` gives it, with its JPEG thumbnail where there is one.
    """
    said = html.escape(title)
    tiles = "\n".join(_tile(hit, picture) for hit, picture in hits)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{said}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><main><h1>{said}</h1>\n<ol>\n{tiles}\n</ol></main></body></html>\n"
    )


def _tile(hit: Mapping[str, Any], picture: bytes | None) -> str:
    item = hit["item"]
    path = html.escape(str(item["path"]))
    shown = '<div class="none"></div>'
    if picture:
        shown = f'<img alt="{path}" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    score = "" if hit["score"] is None else f", score {hit['score']:.4f}"
    captions = "".join(f"<p>{html.escape(text)}</p>" for text in (item.get("captions") or [])[:1])
    return f"<li>{shown}<div><b>{hit['rank']}</b> {path}<p>cosine {hit['cosine']:.4f}{score}</p>{captions}</div></li>"
