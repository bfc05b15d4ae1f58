"""The code blocks of a page in Markdown, and the commands in them as a shell would get them."""

import re
from dataclasses import dataclass

SHELLS = ("bash", "sh", "shell")
PROGRAMS = frozenset(
    (
        *(".", "source", "cd", "cp", "mkdir", "export", "git", "make", "bash", "sh", "env"),
        *("python", "python3", "pip", "pip-audit", "uv", "pytest", "apt-get"),
        *("mlflow", "selftrain", "torchrun", "docker", "curl", "wget", "jupyter", "mkdocs"),
    )
)
"""A block without a language that has a line beginning so is one for a shell."""

_FENCE = re.compile(r"^(?P<ticks>`{3,}|~{3,})\s*(?P<language>[\w+-]*)(?P<more>[^\n`]*)$")
_TITLE = re.compile(r'title="([^"]*)"')
_HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_COMMENT = re.compile(r"""^((?:[^'"#]|\S#|'[^']*'|"[^"]*")*?)\s+#\s.*$""")
_SET = re.compile(r"^(?:[A-Za-z_]\w*=\S*\s+)*")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    text: str
    line: int
    """Of the page, from 1, on which the text begins."""
    language: str = ""
    """As written after the fence; empty: none, or the block is indented."""
    title: str = ""
    """Of a fenced block: what stands after title=."""

    @property
    def is_shell(self) -> bool:
        """Whether a reader types this."""
        if self.language:
            return self.language in SHELLS
        return any(_begins_with_program(line) for line in self.text.splitlines())


@dataclass(frozen=True)
class Command:
    """What a reader types and ends with Enter, here-documents with all their lines."""

    text: str
    line: int
    """Of the page, from 1."""


def code_blocks(page: str) -> list[Block]:
    """Return the fenced and the indented blocks of a page; an empty line ends an indented one."""
    found: list[Block] = []
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            end = _find(lines, number + 1, fence["ticks"])
            title = _TITLE.search(fence["more"])
            text = "\n".join(lines[number + 1 : end])
            found.append(Block(text, number + 2, fence["language"], title[1] if title else ""))
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            text = "\n".join(line[4:] for line in lines[number:end])
            found.append(Block(text, number + 1))
            number = end
        else:
            number += 1
    return found


def commands(page: str) -> list[Command]:
    """Return what a page asks its reader to type, in order; comments are left out."""
    return [it for block in code_blocks(page) if block.is_shell for it in _split(block)]


def _split(block: Block) -> list[Command]:
    found: list[Command] = []
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        first = number
        text = lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = f"{text[:-1].rstrip()} {lines[number].strip()}"
        if here := _HERE.search(text):
            end = _find(lines, number + 1, here[2])
            text = "\n".join([text, *lines[number + 1 : end + 1]])
            number = end
        else:
            text = _COMMENT.sub(r"\1", text).strip()
        if text and not text.startswith("#"):
            found.append(Command(text, block.line + first))
        number += 1
    return found


def _find(lines: list[str], start: int, wanted: str) -> int:
    """Return the number of the first line from `start` on that is the one wanted, or the end."""
    return next((i for i in range(start, len(lines)) if lines[i].strip() == wanted), len(lines))


def _begins_with_program(line: str) -> bool:
    words = _SET.sub("", line).split()
    return bool(words) and words[0] in PROGRAMS
