"""Decoding in a child process with a bound on memory and time: what it meets can end the child, never the run.

A file of some kilobytes may hold gigabytes of pixels, in a picture inside the picture that its header does not
mention. So the bound is not on headers but on the process that decodes. The parent writes a request and the file to
the child's standard input; the child answers on its standard output, and asks back for the size to send, since the
rules for it are functions:

    parent                                   child
    {path, look ...} + file       ->
                                  <-         {ask: fit, size}         any number of times
    {size}                        ->
                                  <-         {mime, size} + picture   or {error, kind}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..nouns.errors import RowError
from .decode import UNSUPPORTED, bound_inner_pictures
from .encode import Encoded
from .header import webp_size
from .render import Bounds, Look, render

MAX_MEMORY_BYTES = 1_150 * 2**20  # that decoding one picture may add to a child
FIRST_MEMORY_BYTES = 256 * 2**20  # before the size of the picture is known
_BYTES_A_PIXEL = 64  # more than any decoder needs: JPEG 2000 takes some 40
_WEBP_BYTES_A_PIXEL = 16  # two canvases of the decoder, the frame that it returns, the picture
_MAX_SECONDS = 120.0  # for one picture
_MAX_GROWTH_BYTES = 256 * 2**20  # of a child that is used again
_MAX_IDLE = 32  # children that wait for the next picture
# what a child needs of the environment; a key has no place beside a decoder
_ENVIRONMENT = re.compile(r"PATH|HOME|TMPDIR|TEMP|TMP|LANG|SYSTEMROOT|VIRTUAL_ENV|(?:PYTHON|LD_|DYLD_|LC_).*")

Message = dict[str, Any]


class _Ended(Exception):
    """The other side of the pipe is gone, or silent for too long."""


def _send(pipe: BinaryIO, message: Message, data: bytes = b"") -> None:
    head = json.dumps(message | {"bytes": len(data)}).encode("ascii")
    pipe.write(len(head).to_bytes(4, "big") + head)
    pipe.write(data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> tuple[Message, bytes]:
    size = pipe.read(4)
    if len(size) < 4:
        raise _Ended
    head = pipe.read(int.from_bytes(size, "big"))
    message: Message = json.loads(head)
    data = pipe.read(message["bytes"])
    if len(data) < message["bytes"]:
        raise _Ended
    return message, data


# ------------------------------------------------------------------------------- the parent's side


class Child(NamedTuple):
    """A running child. requests, answers: its pipes."""

    process: subprocess.Popen[bytes]
    requests: BinaryIO
    answers: BinaryIO

    @classmethod
    def start(cls) -> Child:
        """Raises OSError where the system starts no process."""
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [os.fsdecode(get_executable()), "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # a Ctrl-C at the terminal is for the parent; arenas of malloc and threads of BLAS count as memory
            start_new_session=True,
            env=_environment(),
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  both are pipes
        return cls(process, process.stdin, process.stdout)  # type: ignore[arg-type]

    def end(self) -> int:
        """Kill it at once. Returns its exit status: a negative number is the signal that ended it."""
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait()
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        return status

    def ask(
        self, message: Message, data: bytes, on_question: Callable[[Message], Message]
    ) -> tuple[Message, bytes]:
        """Send a request and answer what the child asks back. Raises _Ended where it died or takes too long."""
        answer, found = self._exchange(message, data)
        while "ask" in answer:
            answer, found = self._exchange(on_question(answer), b"")
        return answer, found

    def _exchange(self, message: Message, data: bytes) -> tuple[Message, bytes]:
        watch = threading.Timer(_MAX_SECONDS, self.process.kill)
        watch.daemon = True
        watch.start()
        try:
            _send(self.requests, message, data)
            return _receive(self.answers)
        except (OSError, ValueError):
            raise _Ended from None
        finally:
            watch.cancel()


class IsolatedRender:
    """Makes pictures in child processes, one for each thread that calls at the same time. Safe in several threads.

    Children are started when they are needed, used again, and end with this process.
    """

    def __init__(self) -> None:
        self._idle: list[Child] = []  # children without a picture; guarded by the lock
        self._lock = threading.Lock()

    def __call__(self, path: str, data: bytes, bounds: Bounds, look: Look) -> Encoded:
        """As `render`. Raises RowError also where the child died, ran out of memory or took too long."""
        try:
            child = self._taken()
        except OSError as error:
            raise RowError(
                f"{path}: no process to decode it in ({error.strerror})", kind="image_unreadable"
            ) from error
        sizes = {"fit": bounds.sizes.fit, "canvas": bounds.sizes.canvas}
        request = {"path": path, "look": list(look), "base64_bytes": bounds.base64_bytes}
        with contextlib.ExitStack() as undo:  # after an interrupt the next picture would get the rest
            undo.callback(child.end)
            try:
                answer, found = child.ask(request, data, lambda q: {"size": sizes[q["ask"]](*q["size"])})
            except _Ended:
                raise _died(path, child.end()) from None
            undo.pop_all()
        if answer.get("is_spent"):
            child.end()
        else:
            self._give_back(child)
        if "error" in answer:
            raise RowError(**answer["error"])
        return Encoded(found, answer["mime"], tuple(answer["size"]))

    def _taken(self) -> Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                child.end()
        return Child.start()

    def _give_back(self, child: Child) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(child)
                return
        child.end()

    def close(self) -> None:
        """End the children that have no picture now."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()


def _died(path: str, status: int) -> RowError:
    if status == -signal.SIGKILL:
        return RowError(
            f"{path}: decoding it was ended: more than {_MAX_SECONDS:g} s, or more memory than the machine has",
            kind="image_too_large",
        )
    return RowError(
        f"{path}: damaged picture (the process that decoded it died: status {status})", kind="image_broken"
    )


def _environment() -> dict[str, str]:
    """The child's. Arenas of malloc and threads of BLAS would count as its memory."""
    kept = {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    # an installed package needs no help to be found, one on the path of a program does
    package = Path(__file__).resolve().parent.parent
    path = [str(package.parent)] if package.name == __name__.partition(".")[0] else []
    path += filter(None, [kept.get("PYTHONPATH")])
    return kept | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}


# ------------------------------------------------------------------------------- the child's side


class _Memory:
    """The bound on this process's address space. Where the system has none, it is not bounded."""

    def __init__(self) -> None:
        self._first = self._base = _address_space()

    def begin(self) -> None:
        """Before a picture: little, since its size is not known."""
        self._base = _address_space()
        self.allow(FIRST_MEMORY_BYTES)

    def allow(self, more_bytes: int) -> None:
        """So much more than when the picture began, and never more than MAX_MEMORY_BYTES."""
        soft = self._base + min(more_bytes, MAX_MEMORY_BYTES)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))

    @property
    def has_grown(self) -> bool:
        """Whether this process should end: what it took does not come back."""
        return _address_space() - self._first > _MAX_GROWTH_BYTES


def _address_space() -> int:
    """Bytes of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0


def serve(requests: BinaryIO, answers: BinaryIO, words: BinaryIO) -> None:
    """Make pictures until the parent is gone. words: what C libraries write to standard error."""
    bound_inner_pictures()
    memory = _Memory()
    while True:
        try:
            request, data = _receive(requests)
        except _Ended:
            return
        memory.begin()
        answer, picture = _answered(request, data, memory, _AskedSizes(requests, answers, memory))
        memory.allow(MAX_MEMORY_BYTES)
        answer["is_spent"] = answer.pop("is_spent", False) or memory.has_grown
        is_broken = answer.get("error", {}).get("kind") == "image_broken"
        if is_broken and UNSUPPORTED.search(_taken_words(words)):
            text = f"{request['path']}: a variant of its format that cannot be read"
            answer["error"] = {"message": text, "kind": "image_format"}
        _send(answers, answer, picture)


class _AskedSizes(NamedTuple):
    """Sizes that the parent is asked for, with the memory that they take allowed."""

    requests: BinaryIO
    answers: BinaryIO
    memory: _Memory

    def fit(self, width: int, height: int) -> tuple[int, int]:
        self.memory.allow(FIRST_MEMORY_BYTES + width * height * _BYTES_A_PIXEL)
        return self._ask("fit", width, height)

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        return self._ask("canvas", width, height)

    def _ask(self, question: str, width: int, height: int) -> tuple[int, int]:
        _send(self.answers, {"ask": question, "size": [width, height]})
        width, height = _receive(self.requests)[0]["size"]
        return width, height


def _answered(request: Message, data: bytes, memory: _Memory, sizes: _AskedSizes) -> tuple[Message, bytes]:
    width, height = webp_size(data) or (0, 0)  # its decoder takes all of its memory before it says the size
    need = FIRST_MEMORY_BYTES + width * height * _WEBP_BYTES_A_PIXEL
    if need > MAX_MEMORY_BYTES:
        text = f"{request['path']}: {width} x {height} pixels take too much memory as WebP; shrink it first"
        return {"error": {"message": text, "kind": "image_too_large"}}, b""
    memory.allow(need)
    try:
        encoded = render(
            request["path"], data, Bounds(sizes, request["base64_bytes"]), Look(*request["look"])
        )
    except RowError as error:
        return {
            "error": {"message": str(error), "kind": error.kind},
            "is_spent": isinstance(error.__cause__, MemoryError),
        }, b""
    except MemoryError:
        text = f"{request['path']}: not enough memory to decode it"
        return {"error": {"message": text, "kind": "image_too_large"}, "is_spent": True}, b""
    return {"mime": encoded.mime, "size": encoded.size}, encoded.data


def _taken_words(words: BinaryIO) -> str:
    words.seek(0)
    text = words.read(65_536).decode("utf-8", "replace")
    words.seek(0)
    words.truncate()
    return text


def main() -> None:
    """Serve on standard input and output, as a process of its own."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    words = tempfile.TemporaryFile()  # noqa: SIM115  until the process ends
    os.dup2(words.fileno(), 1)  # what a library prints must not become an answer
    os.dup2(words.fileno(), 2)
    with contextlib.suppress(OSError):  # the kernel shall take this process first when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(BrokenPipeError, _Ended, KeyboardInterrupt):
        serve(requests, answers, words)


if __name__ == "__main__":
    main()
