"""What a person types or drops into the chat: paths in the forms that terminals give them, completed by Tab."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sifthinker.policy.files import expanded

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
PATH_COMMANDS = ("/image", "/save")
"""Commands that take a path."""

_ESCAPED = re.compile(r"\\(.)")


def typed_path(words: str) -> Path:
    """A path as it was typed, or dropped into the terminal: in quotes, with escaped spaces, as a file's address, or
    below `~`."""
    words = words.strip()
    if len(words) > 1 and words[0] == words[-1] and words[0] in "'\"":
        words = words[1:-1]
    elif words.lower().startswith("file://"):
        words = unquote(urlsplit(words).path)
    elif os.sep == "/" and "\\" in words and not os.path.exists(words):
        words = _ESCAPED.sub(r"\1", words)
    return expanded(words)


def is_picture(line: str) -> bool:
    """Whether a whole line is the path of a picture that is there: somebody dropped it."""
    if "?" in line or not line.strip().rstrip("'\"").lower().endswith(PICTURES):
        return False
    try:
        return typed_path(line).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null in it
        return False


def completions(line: str, choices: Callable[[str], Sequence[str]]) -> list[str]:
    """What the line typed so far may go on to: commands, their words, paths.

    Args:
        line: everything before the cursor.
        choices: for a command, the words that it takes.
    """
    if not line.startswith("/"):
        return []
    command, space, rest = line.partition(" ")
    if not space:
        return [f"{name} " for name in choices("") if name.startswith(command)]
    if command in PATH_COMMANDS:
        return [f"{command} {path}" for path in _paths(rest, folders_only=command == "/save")]
    return [f"{command} {word}" for word in choices(command) if word.startswith(rest)]


def _paths(begun: str, *, folders_only: bool) -> list[str]:
    head, name = os.path.split(begun)
    try:
        entries = sorted(os.scandir(expanded(head or ".")), key=lambda entry: entry.name)
    except OSError:
        return []
    found = []
    for entry in entries:
        if not entry.name.startswith(name) or (entry.name.startswith(".") and not name.startswith(".")):
            continue
        if entry.is_dir():
            found.append(os.path.join(head, entry.name) + os.sep)
        elif not folders_only and entry.name.lower().endswith(PICTURES):
            found.append(os.path.join(head, entry.name))
    return found
