"""A report as Markdown, with its figures and pictures as files in a folder beside it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyiqa_rali.core.files import atomic_open, write_text
from pyiqa_rali.core.tables import markdown_table
from pyiqa_rali.report.blocks import Block, Case, Cases, Commands, Figure, Report, Section, Table, Text


def write_markdown(report: Report, path: Path) -> None:
    """Write `path`, and its pictures into a folder of the same name without `.md` and with `_files`."""
    folder = path.with_name(f'{path.stem}_files')
    writer = _Writer(folder)
    lines = [f'# {_plain(report.title)}', '', *(f'{_plain(fact)}  ' for fact in report.facts), '']
    for section in report.sections:
        lines += writer.section(section, 2)
    write_text(path, '\n'.join(lines).rstrip() + '\n')


class _Writer:
    """Turns sections into lines and writes their pictures.

    Args:
        folder: where the pictures go.
    """

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def section(self, section: Section, level: int) -> list[str]:
        """Return the lines of a section."""
        lines = [f'{"#" * level} {_plain(section.title)}', '']
        for block in section.blocks:
            lines += [*self._block(block), '']
        for part in section.sections:
            lines += self.section(part, level + 1)
        return lines

    def _block(self, block: Block) -> list[str]:
        makers: dict[type, Callable[[Any], list[str]]] = {Text: self._text, Table: self._table, Figure: self._figure,
                                                          Cases: self._cases, Commands: self._commands}
        return makers[type(block)](block)

    def _text(self, block: Text) -> list[str]:
        return [_plain(block.text)]

    def _table(self, block: Table) -> list[str]:
        return [f'*{_plain(block.caption)}*', '', markdown_table(block.headers, block.rows, _plain), *_again(block.command)]

    def _figure(self, block: Figure) -> list[str]:
        return [f'![{_plain(block.caption)}]({self._picture(block.png, "png")})', *_again(block.command)]

    def _cases(self, block: Cases) -> list[str]:
        return [_plain(block.caption), '', markdown_table(['picture', '', 'what is known'], map(self._case, block.items), str)]

    def _case(self, item: Case) -> list[str]:
        shown = f'![{_plain(item.title)}]({self._picture(item.jpeg, "jpg")})' if item.jpeg else item.problem
        aspects = [', '.join(f'{each.name} {each.value:.2f}' + (f' ({each.remark})' if each.remark else '')
                             for each in item.aspects)] if item.aspects else []
        return [shown, item.kind, '<br>'.join(map(_plain, [item.title, *item.lines, *aspects]))]

    def _commands(self, block: Commands) -> list[str]:
        return ['```bash', *block.lines, '```']

    def _picture(self, content: bytes, extension: str) -> str:
        self.count += 1
        name = f'{self.count:03d}.{extension}'
        with atomic_open(self.folder / name, 'wb') as stream:
            stream.write(content)
        return f'{self.folder.name}/{name}'.replace(' ', '%20')


def _plain(text: str) -> str:
    """Return text in which nothing counts as markup."""
    return re.sub(r'([\\`*_{}\[\]<>|#])', r'\\\1', ' '.join(str(text).split()))


def _again(command: str) -> list[str]:
    return ['', '```bash', *command.splitlines(), '```'] if command else []
