"""The pages of the documentation, and what stands in them: headings, links and blocks of code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = ROOT / 'docs' / 'site'
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
BLOCK = re.compile(r'^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$',
                   re.DOTALL | re.MULTILINE)
PROGRAMS = ('pyiqa-rali', 'pyiqa_rali', 'pyiqa_rali.train')


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: where it stands.
        line: the number of its first line.
        language: what is written behind the fence.
        text: what is between the fences.
        mark: the comment on the line above, such as 'run' for `<!-- run -->`; empty without one.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f'{self.page.stem}:{self.line}'


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of these languages on all pages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    text = page.read_text(encoding='utf-8')
    for found in BLOCK.finditer(text):
        line = text.count('\n', 0, found.start('text')) + 1
        yield Block(page, line, found['language'], found['text'], found['mark'] or '')


def prose_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return BLOCK.sub('', page.read_text(encoding='utf-8'))


def links_of(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead; inline code holds none."""
    prose = re.sub(r'`[^`\n]*`', '', prose_of(page))
    return re.findall(r'\]\(([^)\s]+)[^)]*\)', prose)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and the usual hosts of repositories make them."""
    headings = re.findall(r'^#{1,6} (.+)$', prose_of(page), re.MULTILINE)
    return {slug(heading) for heading in headings}


def slug(heading: str) -> str:
    """Return the anchor of a heading.

    Example:
        >>> slug('Model card of `rali-lite`'), slug('Score, at scale')
        ('model-card-of-rali-lite', 'score-at-scale')
    """
    return re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', heading.lower()).strip())


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, a pipe's and a chain's one by one, comments left out."""
    for line in text.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars='|&;<>')
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set('|&;'):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def own_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the program of this package that a command runs, and its arguments; None for any other command.

    Example:
        >>> own_command(['python', '-m', 'pyiqa_rali', 'score', 'a.png'])
        ('pyiqa_rali', ['score', 'a.png'])
    """
    if words and Path(words[0]).name == PROGRAMS[0]:
        return 'pyiqa_rali', words[1:]
    for position, word in enumerate(words[:-1]):
        if word == '-m' and words[position + 1] in PROGRAMS:
            return words[position + 1], words[position + 2:]
    return None
