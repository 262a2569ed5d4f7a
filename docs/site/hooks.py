"""What MkDocs does to pages beyond its own: formulas become MathML, and reference pages follow the code.

In a page, an HTML comment stands for text that is written elsewhere:
`<!-- README: main-job -->` for the README's code block behind the comment `<!-- main-job -->`,
`<!-- options: package.module:Class -->` for tables of the keys of an option section (`... beyond package.module:Base` leaves
out those of a base), and
`<!-- help: every command -->` for what `--help` prints.
"""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from reference import every_help, marked_block, option_tables

README = Path(__file__).parents[2] / 'README.md'
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
PLACEHOLDER = re.compile(r'^<!-- (README|options|help): (.+?) -->$', re.MULTILINE)
WRITTEN_ELSEWHERE: dict[str, Callable[[str], str]] = {
    'README': lambda name: marked_block(README, name), 'options': option_tables,
    'help': lambda _: every_help()}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is written elsewhere."""
    return PLACEHOLDER.sub(lambda found: WRITTEN_ELSEWHERE[found[1]](found[2]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn the formulas that pymdownx.arithmatex marked into MathML, which browsers draw by themselves."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tag, bracket, formula = found.groups()
    display = 'block' if bracket == '[' else 'inline'
    return f'<{tag} class="formula">{convert(html.unescape(formula), display=display)}</{tag}>'
