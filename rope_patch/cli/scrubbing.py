"""Takes host names, user names, paths and addresses out of text, so that it can be shown to anybody.

Two ways at once: what this machine is known to be called is replaced wherever it stands, and whatever looks like a path
or an address is replaced too. Where in doubt, a word is taken out.
"""

import contextlib
import getpass
import ipaddress
import os
import platform
import pwd
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PATH, ADDRESS, NAME, VALUE = "<path>", "<address>", "<name>", "<value>"
# Names that say nothing of anybody, or that a report is about.
NO_NAMES = {
    *("root", "user", "nobody", "localhost", "localdomain", "home", "host", "node", "worker", "main", "default"),
    *("rope_patch", "rope-patch", "vllm", "ascend", "vllm-ascend", "vllm_ascend", "torch", "torch_npu", "torch-npu"),
    *("triton", "triton-ascend", "transformers", "python", "linux", "npu", "cuda", "cpu", "kernel", "native"),
    *("bfloat16", "float16", "float32", "x86_64", "aarch64", "linux-gnu", "eager", "neox", "gpt-j", "wrong", "right"),
}
# Variables whose values a report is about, and may show.
SHOWN = re.compile(
    r"VLLM_PLUGINS|VLLM_ASCEND_TRITON_ROPE(_NATIVE|_CHECK|_DRIVER)?|TRITON_INTERPRET|LANG|LANGUAGE|LC_\w+|TERM|SHLVL|_"
)
NAMING = re.compile("HOST|NODE|USER|NAME|ADDR|DOMAIN|OWNER|TOKEN|SECRET|KEY|PASS", re.IGNORECASE)  # of a variable
WORD = re.compile("[a-z]{1,8}", re.IGNORECASE)  # of other variables
NO_NAME = re.compile("[0-9.,:%-]*|true|false", re.IGNORECASE)

_QUOTED = re.compile(r"""(['"`])(?:file:/)?(?:~|\.{1,2})?/[^'"`\n]*\1""")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]+(?::[^\s@/]+)?@[\w-]+(?:\.[\w-]+)*")
_DOMAIN = re.compile(r"(?<![\w.])(?:[a-z0-9-]+\.)+(?:internal|local|lan|corp|intranet|com|net|org|cn)(?![\w.-])", re.I)
_HOME = re.compile(
    r"/(?:home|Users)/[^/\n'\"]{1,64}/[^\s'\"`,;:()\[\]{}<>|=]*|(?<![\w~])~[a-z_][\w.-]*|[a-z]:\\\S+", re.I
)
_PATH = re.compile(r"(?<![\w>.])(?:~[\w.-]*|\.{1,2})?/[^\s'\"`,;:()\[\]{}<>|=]+")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+|/\d+)?(?![\w.]*\w)")
_IPV6 = re.compile(r"(?<![\w:.])\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:%\w+)?(?:\]:\d+|\])?(?![\w:])", re.IGNORECASE)
_MAC = re.compile(r"(?<![\w:])[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}(?![\w:])", re.IGNORECASE)


class Scrub:
    """Takes out what this machine, its user and ``places`` are called, and whatever looks like a path or address."""

    def __init__(self, places: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        paths = {path for path in (*places, *_places()) if len(path) > 3}
        everywhere = {path for path in paths if os.sep in path} | {os.path.realpath(path) for path in paths}
        self._paths = sorted(everywhere, key=len, reverse=True)
        self._folders = _words(paths - everywhere - NO_NAMES)
        known = {name.lower() for name in (*names, *_names())} - NO_NAMES
        self._names = _words(name for name in known if len(name) > 1)
        self._values = _words(_values())

    def __call__(self, value: Any) -> Any:
        """The same, with every string in it scrubbed."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            # A field's name is the report's own; what was said, and is counted, is none.
            return {name if name.isidentifier() else self._text(name): self(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(inner) for inner in value]
        return value

    def _text(self, text: str) -> str:
        for path in self._paths:
            text = text.replace(path, PATH)
        text = re.sub(rf"{PATH}(?:/[^\s'\"`,;:()<>|]*)+", PATH, text)
        text = self._folders.sub(PATH, _HOME.sub(PATH, text))
        text = _QUOTED.sub(lambda found: f"{found[1]}{PATH}{found[1]}", text)
        for pattern in (_URL, _MAIL, _MAC, _DOMAIN):
            text = pattern.sub(ADDRESS, text)
        for pattern in (_IPV4, _IPV6):
            text = pattern.sub(_address, text)
        text = _PATH.sub(PATH, text)
        text = self._values.sub(VALUE, text)  # first, since a name may be a part of a value
        return self._names.sub(NAME, text)


def _words(words: Iterable[str]) -> re.Pattern[str]:
    """Finds these as whole words, the longest first; nothing if there are none."""
    found = sorted(set(words), key=len, reverse=True)
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, found)) or '(?!)'})(?![a-z0-9])", re.IGNORECASE)


def _address(found: re.Match[str]) -> str:
    plain = re.sub(r"\]?(:\d+)$|/\d+$|%\w+", "", found[0]) if "." in found[0] else found[0].partition("]")[0]
    try:
        ipaddress.ip_address(plain.lstrip("[").partition("%")[0])
    except ValueError:
        return found[0]
    return ADDRESS


def _places() -> Iterator[str]:
    yield from (os.path.expanduser("~"), sys.prefix, sys.executable, tempfile.gettempdir(), *sys.path)
    with contextlib.suppress(OSError):  # the folder is gone
        yield os.getcwd()
    for value in os.environ.values():
        yield from (part for part in value.split(os.pathsep) if part.startswith(("/", "~", "./", "../")))


def _names() -> Iterator[str]:
    """What this machine and its user are called."""
    hosts = [socket.gethostname(), platform.node(), os.environ.get("HOSTNAME", "")]
    with contextlib.suppress(OSError):
        hosts.append(Path("/etc/hostname").read_text(encoding="utf-8", errors="replace").strip())
    for host in filter(None, hosts):
        first, _, domain = host.partition(".")
        yield from (host, first, domain)
    users = [os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")]
    with contextlib.suppress(Exception):  # a user without a name
        users += [getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name, pwd.getpwuid(os.getuid()).pw_gecos.strip(", ")]
    users.append(Path(os.path.expanduser("~")).name)
    for user in filter(None, users):
        yield user
        yield from (part for part in re.split(r"[.\s_@-]", user) if len(part) > 3)


def _values() -> Iterator[str]:
    """The values of environment variables that may name somebody or somewhere."""
    for name, value in os.environ.items():
        for part in (value, *re.split(r"[\s,;:=@/]+", value)):
            said = len(part) > 2 if NAMING.search(name) else len(part) > 5 and not WORD.fullmatch(part)
            if said and not SHOWN.fullmatch(name) and not NO_NAME.fullmatch(part) and part.lower() not in NO_NAMES:
                yield part
