"""Promise 15: a download is used only when complete and of its checksum; a broken one goes on; many share one.

A server on 127.0.0.1 cuts, lies, is busy, sends pages, and changes the file between two parts.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture.kit import Promise, Scale, Trial, require

_SIZE = 1_500_000
_FAULTS = (
    "503 then fine",
    "longer than it says",
    "a page",
    "wrong bytes",
    "changed between",
    "no ranges",
    "another part",
)


class HostileServer(http.server.ThreadingHTTPServer):
    """Serves one file, with a fault.

    Args:
        body: the file. cuts: after how many bytes of an answer the connection ends, one for each answer; then none.
        fault: of `_FAULTS`, or "".
        slow_s: waited between blocks.
    """

    daemon_threads = True

    def __init__(self, body: bytes, cuts: list[int] | None = None, fault: str = "", slow_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.body, self.cuts, self.fault, self.slow_s = body, list(cuts or []), fault, slow_s
        self.asked = 0
        self.sent = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/set.bin"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: HostileServer

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        body, tag = server.body, f'"{hashlib.md5(server.body).hexdigest()}"'
        if server.fault == "503 then fine" and server.asked <= 2:
            self.send_error(503)
            return
        if server.fault == "a page":
            body = b"<!DOCTYPE html><title>sign in</title>"
        if server.fault == "wrong bytes":
            body = body[:-1] + b"?"
        if server.fault == "changed between" and server.asked == 1:
            body, tag = bytes(len(body)), '"before"'
            server.cuts = [len(body) // 2]
        begin = 0
        asked = self.headers["Range"]
        if asked and self.headers["If-Range"] == tag and server.fault != "no ranges":
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            said = begin + 7 if server.fault == "another part" and server.asked == 2 else begin
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {said}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        more = 1000 if server.fault == "longer than it says" and server.asked == 1 else 0
        self.send_header("Content-Length", str(len(body) - begin + more))
        self.end_headers()
        end = begin + server.cuts.pop(0) if server.cuts else len(body)
        for position in range(begin, min(end, len(body)), 65_536):
            block = body[position : min(position + 65_536, end)]
            self.wfile.write(block)
            server.sent += len(block)
            time.sleep(server.slow_s)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


@contextmanager
def _serving(server: HostileServer) -> Iterator[HostileServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _body(seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(_SIZE)


def _source(server: HostileServer, folder: Path) -> Any:
    from dlwp.downloads import Source

    digest = hashlib.sha256(server.body).hexdigest()
    return Source(folder / "data" / "set.bin", (server.url,), digest, "sha256")


def _fetch(source: Any) -> str:
    """Fetch in this process; return how it ended."""
    from dlwp import downloads
    from dlwp.errors import DataError

    try:
        downloads.fetch(source, pause_s=0.01, timeout_s=5.0, progress=False)
    except DataError as error:
        return str(error)
    except downloads.UnreachableError as error:
        return f"unreachable: {error}"
    return "fetched"


def _child(source: Any) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if _fetch(source) == "fetched" else 1
        finally:
            os._exit(status)
    return pid


def _require_whole(source: Any, server: HostileServer) -> None:
    require(source.path.exists(), "the file is not there")
    require(source.path.read_bytes() == server.body, "a file that does not verify got the final name")
    left = [path.name for path in source.path.parent.iterdir() if path != source.path]
    require(left == [], f"left behind: {left}")


def cut(scale: Scale, count: int, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try that a download goes on after cuts at random bytes."""

    def do(folder: Path) -> int:
        if patch is not None:
            patch()
        rolls = scale.random("cuts")
        body = _body(1)
        for number in range(count):
            cuts = [rolls.randrange(1, _SIZE // 2) for _ in range(rolls.randint(1, 4))]
            with _serving(HostileServer(body, cuts)) as server:
                place = folder / f"{number}"
                source = _source(server, place)
                require((told := _fetch(source)) == "fetched", f"cut at {cuts}: {told}")
                _require_whole(source, server)
                require(
                    server.sent <= _SIZE + 65_536 * (len(cuts) + 1), f"{server.sent:,} bytes sent: not gone on with"
                )
        return count

    return Trial(f"{count} downloads cut at random bytes", do)


def killed(scale: Scale, count: int) -> Trial:
    """Return the try that a process is killed while it fetches, and the next one goes on."""

    def do(folder: Path) -> int:
        rolls = scale.random("kills")
        with _serving(HostileServer(_body(2), slow_s=0.01)) as server:
            for number in range(count):
                source = _source(server, folder / f"{number}")
                before = server.sent
                pid = _child(source)
                part = source.path.with_name("set.bin.part")
                goal = rolls.randrange(1, _SIZE - 300_000)
                end = time.monotonic() + 20
                while time.monotonic() < end and not (part.exists() and part.stat().st_size >= goal):
                    time.sleep(0.002)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                require(not source.path.exists(), "killed too late")
                require((told := _fetch(source)) == "fetched", told)
                _require_whole(source, server)
                require(server.sent - before < 2 * _SIZE, "begun again from 0")
        return count

    return Trial(f"{count} SIGKILLs", do)


def fault(name: str, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try of one fault of the server."""

    def do(folder: Path) -> None:
        if patch is not None:
            patch()
        cuts = [_SIZE // 3] if name in ("no ranges", "another part") else []
        with _serving(HostileServer(_body(3), cuts, name)) as server:
            source = _source(server, folder)
            told = _fetch(source)
            if name in ("a page", "wrong bytes"):
                require(not source.path.exists(), "a file that does not verify got the final name")
                require("expected" in told and (name != "a page" or "web page" in told), told)
                server.fault = ""
                told = _fetch(source)
            require(told == "fetched", told)
            _require_whole(source, server)

    return Trial(name, do)


def shared(number: int, patch: Callable[[], None] | None = None) -> Trial:
    """Return the try that several processes want the same file at once, and its body is sent once."""

    def do(folder: Path) -> None:
        if patch is not None:
            patch()
        with _serving(HostileServer(_body(4), slow_s=0.005)) as server:
            source = _source(server, folder)
            ended = [os.waitpid(pid, 0)[1] for pid in [_child(source) for _ in range(number)]]
            require(ended == [0] * number, f"ended with {ended}")
            _require_whole(source, server)
            require(server.sent == _SIZE, f"{server.sent:,} bytes were sent, one body has {_SIZE:,}")

    return Trial(f"{number} processes want one file", do)


def offline() -> Trial:
    """Return the try that the command names file, place and checksum where nothing can be reached."""

    def do(folder: Path) -> None:
        from torture.commands import fail

        proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        said = fail(3, "data=cifar100", "model=linear", "data.root=data", environment={**proxy, "no_proxy": ""})
        require("cifar-100-python.tar.gz (md5 eb9058c3a382ffc7106e4002c42a8d85) into 'data'" in said, said)

    return Trial("offline", do)


def _trials(scale: Scale) -> list[Trial]:
    found = [cut(scale, scale.count(3, 15, 50)), killed(scale, scale.count(1, 5, 20)), offline()]
    found += [fault(name) for name in _FAULTS]
    return found + [shared(scale.count(4, 10, 10)) for _ in range(scale.count(1, 3, 20))]


def _believe() -> None:
    from dlwp import downloads

    downloads.digest_of = lambda path, algorithm="md5": hashlib.sha256(_body(3)).hexdigest()


def _without_locks() -> None:
    from dlwp import downloads

    downloads.fcntl.flock = lambda *words: None  # type: ignore[attr-defined]


def _without_ranges() -> None:
    from dlwp import downloads

    request = downloads.Request

    def whole(url: str, headers: dict[str, str]) -> Any:
        return request(url, headers={name: value for name, value in headers.items() if name != "Range"})

    downloads.Request = whole  # type: ignore[assignment,misc]


def _controls(scale: Scale) -> list[Trial]:
    return [
        replace(fault("wrong bytes", _believe), breaks="does not verify got the final name"),
        replace(shared(4, _without_locks), breaks="bytes were sent, one body has|ended with"),
        replace(cut(scale, 2, _without_ranges), breaks="bytes sent: not gone on with"),
    ]


PROMISES = [Promise(15, "downloads", "A download is used only when complete and verified.", _trials, _controls)]
