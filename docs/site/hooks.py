"""What MkDocs does to each page beyond its own: formulas become MathML when the site is built, so that no script draws them."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Turn the formulas that pymdownx.arithmatex marked into MathML, which browsers draw by themselves."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tag, bracket, formula = found.groups()
    display = 'block' if bracket == '[' else 'inline'
    return f'<{tag} class="formula">{convert(html.unescape(formula), display=display)}</{tag}>'
