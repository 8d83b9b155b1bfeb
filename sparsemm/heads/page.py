"""A head-score file as one HTML page: nothing outside it, light and dark, readable on a phone."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparsemm.heads.compare import compare, count_of, cumulative
from sparsemm.heads.partial import describe_counts

LISTED = 10  # best heads in the table

STYLE = """
:root { color-scheme: light dark;
  --ink: #1a1a1a; --paper: #fff; --faint: #d9d9d9; --soft: #5c5c5c; --card: #f7f5f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181d; --faint: #3a3f49; --soft: #a3a8b3; --card: #1f222a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; overflow-wrap: anywhere;
  color: var(--ink); background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; }
.soft, figcaption, dt { color: var(--soft); }
.numbers { display: grid; gap: .6rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.numbers div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.numbers b { display: block; font-size: 1.5rem; line-height: 1.25; }
.numbers span { font-size: .88rem; color: var(--soft); }
.pair { display: grid; gap: 1rem; align-items: end;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0 0 1.2rem; }
figcaption { font-size: .9rem; }
img { display: block; width: 100%; height: auto; }
.pair img { max-width: 28rem; margin: 0 auto; }
.wide { overflow-x: auto; }
.wide img { min-width: 34rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .5rem; text-align: right; border-bottom: 1px solid var(--faint); }
th { font-weight: 600; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""


@dataclass(frozen=True)
class Picture:
    """A picture in both themes, as PNG files, and what it shows."""

    light: bytes
    dark: bytes
    alt: str
    caption: str
    wide: bool = False  # scrolls sideways on a phone


def to_html(content: Mapping[str, Any], scores: Tensor, pictures: Sequence[Picture]) -> str:
    """The page of a head-score file with scores [L, Hq]."""
    name = str(content.get("name") or "unnamed model")
    layers, heads = scores.shape
    found = (
        f"{content['samples']} samples, {content['data']}" if "samples" in content else content.get("data")
    )
    narrow = "".join(_figure(picture) for picture in pictures if not picture.wide)
    wide = "".join(_figure(picture) for picture in pictures if picture.wide)
    parts = [
        f"<h1>Visual heads of {_text(name)}</h1>",
        f'<p class="soft">{layers} layers of {heads} query heads; {_text(found or "origin unknown")}</p>',
        _numbers(content, scores),
        "<p>While the model reads an image aloud, a head scores when its strongest attention falls on the "
        "region that is being read; small regions count more (arXiv:2506.05344).</p>",
        f'<h2>Where the score is</h2><div class="pair">{narrow}</div>',
        f"<h2>The best heads</h2>{_best(scores)}",
        f"<h2>Where heads look</h2>{wide}" if wide else "",
        f"<h2>How it was found</h2>{_facts(content)}",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Visual heads of {_text(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def agreement_of_halves(content: Mapping[str, Any]) -> float | None:
    """Rank correlation between the scores of every other sample and of the others; None where not known."""
    from torch import tensor

    halves = content.get("halves")
    if not halves or len(halves) != 2:
        return None
    one, other = (tensor(half) for half in halves)
    return compare(one, other).correlation


def _numbers(content: Mapping[str, Any], scores: Tensor) -> str:
    curve = cumulative(scores)
    cards = []
    for share in (0.05, 0.1):
        count = count_of(scores, share)
        cards.append(
            (f"{float(curve[count - 1]):.0%}", f"of the score in the best {share:.0%} ({count} heads)")
        )
    halves = agreement_of_halves(content)
    if halves is not None:
        cards.append((f"{halves:.2f}", "rank correlation between halves of the samples"))
    counts = content.get("counts") or {}
    if counts.get("tokens"):
        share = counts.get("matched", 0) / counts["tokens"]
        cards.append((f"{share:.0%}", "of its tokens matched a region"))
    inner = "".join(f"<div><b>{_text(value)}</b><span>{_text(label)}</span></div>" for value, label in cards)
    return f'<div class="numbers">{inner}</div>'


def _best(scores: Tensor) -> str:
    curve, heads = cumulative(scores), scores.shape[1]
    order = scores.flatten().sort(descending=True, stable=True).indices[:LISTED].tolist()
    rows = [
        f"<tr><td>{place + 1}</td><td>{head // heads}</td><td>{head % heads}</td>"
        f"<td>{float(scores.flatten()[head]):.4g}</td><td>{float(curve[place]):.1%}</td></tr>"
        for place, head in enumerate(order)
    ]
    return (
        "<table><thead><tr><th>rank</th><th>layer</th><th>head</th><th>score</th><th>together</th></tr>"
        "</thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        '<p class="soft">Layers and heads count from 0; together: the share of the whole score of this head '
        "and those above it.</p>"
    )


def _facts(content: Mapping[str, Any]) -> str:
    counts, git = content.get("counts") or {}, content.get("git") or {}
    known: dict[str, Any] = {
        "model": content.get("name"),
        "model's content": content.get("model") or "not named in the file",
        "data": content.get("data"),
        "question": content.get("question"),
        "samples": content.get("samples"),
        "asked for": content.get("asked"),
        "without a match": content.get("unmatched"),
        "tokens": describe_counts(counts) if counts.get("tokens") else None,
        "settings": _settings(content["settings"]) if "settings" in content else None,
        "commit": git.get("commit")
        and f"{git['commit']}{' and uncommitted changes' if git.get('dirty') else ''}",
    }
    inner = "".join(
        f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in known.items() if value is not None
    )
    return f"<dl>{inner}</dl>"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)


def _figure(picture: Picture) -> str:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in (picture.light, picture.dark)
    )
    image = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{_text(picture.alt)}"></picture>'
    )
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>"
    return f"<figure>{f'<div class=wide>{image}</div>' if picture.wide else image}{caption}</figure>"


def _text(value: object) -> str:
    return html.escape(str(value))
