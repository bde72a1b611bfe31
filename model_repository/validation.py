"""
Trying a package out in a process that may die: a crafted tree can crash or never end, whatever format it came in.

A helper process, started once and shared by all workers, has imported what models need. For each package it forks a
child, which gives up memory, processor time, files and, where the kernel permits, the network; reads every member;
replays the golden rows through the compiled plan and through the original estimator; and says what it found. A child
that dies says something too.

                    one socket, shared                       fork per package
    worker  ──── package, limits, reply pipe ───▶  helper  ──────────────────────▶  trial
       ▲                                              │ "died by SIGSEGV"            │ "differs by 0.3"
       └──────────────────────── reply pipe ──────────┴──────────────────────────────┘

One trial runs at a time, which bounds the memory of all together. The helper is no fork of the server: it has none of
its secrets, threads and sockets. It ends when the last process that could ask it is gone.
"""

import ctypes
import fcntl
import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from model_repository.errors import (
    InvalidPackage,
    PackageError,
    PackageMismatch,
    ServingError,
    StoreBusy,
    TrialFailed,
    UnsignedPackage,
    UntrustedPackage,
)
from model_repository.signing import TrustedKeys

GIBIBYTE: Final = 1024**3
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_VERDICT_BYTES: Final = 4096
"""A pipe takes so much in one piece: there is no half verdict."""
START_SECONDS: Final = 20.0
"""How long a helper that was started may take to say that it lives."""
LOOK_SECONDS: Final = 1.0

_LINUX: Final[dict[str, int]] = {
    "CLONE_NEWUSER": 0x1000_0000,
    "CLONE_NEWNET": 0x4000_0000,
    "PR_SET_PDEATHSIG": 1,
    "PR_SET_NO_NEW_PRIVS": 38,
}
_TRIED_WITH: Final = tuple(
    f"model_repository.{name}" for name in ("golden", "runtimes.estimator", "runtimes.forecasting", "runtimes.loading")
)
_REFUSALS: Final[dict[str, type[PackageError]]] = {
    kind.__name__: kind
    for kind in (PackageError, InvalidPackage, UntrustedPackage, UnsignedPackage, PackageMismatch, TrialFailed)
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial may use: so much, and so much more per byte of the package."""

    memory_bytes: int = 2 * GIBIBYTE
    """Beyond what the helper itself occupies."""
    memory_per_byte: float = 4.0
    processor_seconds: float = 20.0
    seconds: float = 60.0
    """By the clock on the wall."""
    seconds_per_gibibyte: float = 60.0
    """Of either kind."""

    def for_package(self, size: int) -> "Limits":
        """The limits of a package of *size* bytes."""
        more = self.seconds_per_gibibyte * size / GIBIBYTE
        return msgspec.structs.replace(
            self,
            memory_bytes=self.memory_bytes + int(self.memory_per_byte * size),
            processor_seconds=self.processor_seconds + more,
            seconds=self.seconds + more,
        )


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    limits: Limits
    trusted_keys: list[bytes] | None


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    refusal: str | None = None
    """Name of an error class."""
    message: str = ""


class Validator:
    """
    Tries packages out, one at a time. Any thread may ask.

    Made before a fork, all processes share one helper, if `descriptors` stay open in them.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        # Every asker holds both ends, so that what was asked outlives a helper that dies, and its successor reads it.
        self._ask, self._hear = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._alive = os.memfd_create("validator", os.MFD_CLOEXEC)
        """Locked by the helper as long as it lives."""
        self._helper: subprocess.Popen[bytes] | None = None
        self._started = -math.inf
        self._lock = threading.Lock()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a fork must keep open to share the helper."""
        return self._ask.fileno(), self._hear.fileno(), self._alive

    def start(self) -> None:
        """Have a helper, without waiting until it is ready; asking does the same."""
        with self._lock:
            if self._is_helper_alive():
                return
            self._started = time.monotonic()
            hear, alive = self._hear.fileno(), self._alive
            # -P, -s and an environment of its own: it runs the same code as we do, and nothing from where we stand.
            # -W: what libraries and later Pythons warn of would stand in our log, and be no record of it.
            self._helper = subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
                [sys.executable, "-P", "-s", "-Wignore", "-m", __name__, str(hear), str(alive)],
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(hear, alive),
                process_group=0,  # a Ctrl-C is for the server
            )

    def check(self, package: int, trusted_keys: TrustedKeys | None = None) -> None:
        """
        Try out the package that is open as descriptor *package*; takes seconds.

        Raises:
            PackageError: it is refused; the message says why.
            StoreBusy: no verdict came in time, because others are waiting too.
        """
        request = _Request(
            limits=self._limits.for_package(os.fstat(package).st_size),
            trusted_keys=list(trusted_keys.raw) if trusted_keys is not None else None,
        )
        for _ in range(2):  # a helper that was killed takes one question with it
            verdict = self._answer(request, package)
            if verdict is not None:
                break
        else:
            raise StoreBusy("the process that tries packages out was killed; try again")
        if verdict.refusal is not None:
            raise _REFUSALS.get(verdict.refusal, PackageError)(verdict.message)

    def close(self) -> None:
        """Let go of the helper, and end it if it is ours."""
        self._ask.close()
        self._hear.close()
        os.close(self._alive)
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()

    def _answer(self, request: _Request, package: int) -> _Verdict | None:
        """``None`` if the helper died over it."""
        receiver, sender = os.pipe()
        try:
            try:
                socket.send_fds(self._ask, [msgspec.msgpack.encode(request)], [package, sender], socket.MSG_DONTWAIT)
            except BlockingIOError as exc:
                raise StoreBusy("too many packages wait to be tried out; try again") from exc
            finally:
                os.close(sender)
            self._wait_for(receiver, deadline=time.monotonic() + START_SECONDS + 3 * request.limits.seconds)
            said = os.read(receiver, MAX_VERDICT_BYTES)
            return msgspec.msgpack.decode(said, type=_Verdict) if said else None
        finally:
            os.close(receiver)

    def _wait_for(self, receiver: int, deadline: float) -> None:
        self.start()
        while not select.select([receiver], [], [], LOOK_SECONDS)[0]:
            if time.monotonic() > deadline:
                raise StoreBusy("the packages before this one took too long; try again")
            self.start()

    def _is_helper_alive(self) -> bool:
        """Whether one has the lock, or was started by us just now and may not have got to it."""
        if _locked(self._alive):
            return True
        is_starting = time.monotonic() - self._started < START_SECONDS
        return is_starting and self._helper is not None and self._helper.poll() is None


@contextmanager
def _reopened(memory_file: int) -> Iterator[int]:
    """The same file, opened anew: locks belong to an opening, not to a file."""
    descriptor = os.open(f"/proc/self/fd/{memory_file}", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(memory_file: int) -> bool:
    with _reopened(memory_file) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _environment() -> dict[str, str]:
    """One thread for each library, no writing of bytecode, the same modules; nothing that we were told in secret."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONDONTWRITEBYTECODE": "1", **threads}


# The helper


def main(hear: int, alive: int) -> None:
    """Serve as the helper until nobody can ask any more, or another helper is there."""
    with _reopened(alive) as lock:
        os.close(alive)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        import_models()
        with socket.socket(fileno=hear) as questions:
            while True:
                message, descriptors, _, _ = socket.recv_fds(questions, MAX_MESSAGE_BYTES, 2)
                if not message:
                    return
                package, reply = descriptors
                _try_in_a_child(msgspec.msgpack.decode(message, type=_Request), package, reply)
                os.close(package)
                os.close(reply)


def import_models() -> None:
    """What trials need, imported before the fork: seconds that no upload then waits."""
    for module in (*_TRIED_WITH, "sklearn.ensemble", "sklearn.pipeline", "skops.io"):
        import_module(module)


def _try_in_a_child(request: _Request, package: int, reply: int) -> None:
    child = os.fork()
    if child == 0:
        _trial(request, package, reply)
    _, status = os.waitpid(child, 0)  # ends: it has an alarm that it cannot hear
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        _say(reply, _Verdict(refusal=TrialFailed.__name__, message=_how_it_died(code, request.limits)))


def _trial(request: _Request, package: int, reply: int) -> NoReturn:
    try:
        _confine(request.limits)
        _say(reply, _verdict(request, package))
        os._exit(0)
    finally:
        os._exit(1)


def _verdict(request: _Request, package: int) -> _Verdict:
    try:
        _replay_all(package, TrustedKeys(request.trusted_keys) if request.trusted_keys is not None else None)
    except ServingError as exc:
        if isinstance(exc.__cause__, MemoryError):
            return _Verdict(refusal=TrialFailed.__name__, message=_too_much_memory(request.limits))
        kind = type(exc).__name__
        return _Verdict(refusal=kind if kind in _REFUSALS else PackageError.__name__, message=str(exc)[:2000])
    except MemoryError:
        return _Verdict(refusal=TrialFailed.__name__, message=_too_much_memory(request.limits))
    except Exception as exc:
        return _Verdict(refusal=InvalidPackage.__name__, message=f"it cannot be tried out: {type(exc).__name__}")
    return _Verdict()


def _replay_all(descriptor: int, trusted_keys: TrustedKeys | None) -> None:
    """
    Every member read, the golden rows replayed through the plan, if there is one, and through the estimator.

    Raises:
        PackageError: naming what is wrong.
    """
    from model_repository.golden import TOLERANCE, golden_from, replay
    from model_repository.mlpkg import Package
    from model_repository.runtimes.forecasting import forecast_difference
    from model_repository.runtimes.loading import compiled_runtime, estimator_runtime

    check = trusted_keys.check if trusted_keys is not None else None
    size = os.fstat(descriptor).st_size
    with Package(Path("package.mlpkg"), os.dup(descriptor), size, check_signature=check) as package:
        package.verify_members()
        manifest = package.manifest
        golden = golden_from(package.member(manifest.golden), manifest)
        runtimes: dict[str, Any] = {}
        runtimes["estimator"] = estimator_runtime(package, pickle_allowed=False)
        if manifest.plan is not None:
            runtimes["compiled plan"] = compiled_runtime(package)
        for name, runtime in runtimes.items():
            try:
                difference = replay(runtime, golden, manifest.schema)
                difference = max(difference, forecast_difference(package, runtime))
            except ServingError as exc:
                raise PackageMismatch(f"the {name} cannot score the package's golden rows: {exc}") from exc
            if difference > TOLERANCE:
                raise PackageMismatch(
                    f"the {name} differs by {difference:.3g} from the package's golden predictions (at most "
                    f"{TOLERANCE:g})"
                )


def _confine(limits: Limits) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_LINUX["PR_SET_PDEATHSIG"], signal.SIGKILL)
    libc.prctl(_LINUX["PR_SET_NO_NEW_PRIVS"], 1, 0, 0, 0)
    # Without the first a plain user may not do the second; where neither is permitted, the network stays.
    libc.unshare(_LINUX["CLONE_NEWUSER"])
    libc.unshare(_LINUX["CLONE_NEWNET"])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.memory_bytes
    seconds = max(1, round(limits.processor_seconds))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, memory, memory),
    ):
        _, most = resource.getrlimit(kind)
        allowed = soft if most == resource.RLIM_INFINITY else min(soft, most)
        resource.setrlimit(kind, (allowed, min(hard, most) if most != resource.RLIM_INFINITY else hard))


def _say(reply: int, verdict: _Verdict) -> None:
    try:
        os.write(reply, msgspec.msgpack.encode(verdict)[:MAX_VERDICT_BYTES])
    except BrokenPipeError:  # whoever asked is gone
        return


def _how_it_died(code: int, limits: Limits) -> str:
    if code == -signal.SIGALRM:
        return f"trying the package out took more than {limits.seconds:.3g} s"
    if code == -signal.SIGXCPU:
        return f"trying the package out took more than {limits.processor_seconds:.3g} s of processor time"
    if code == -signal.SIGKILL:
        return "trying the package out was ended by SIGKILL: it used too much memory or processor time"
    if code < 0:
        return f"trying the package out crashed the process that did it ({signal.Signals(-code).name})"
    return f"trying the package out ended the process that did it (status {code})"


def _too_much_memory(limits: Limits) -> str:
    return f"trying the package out needs more than {limits.memory_bytes / GIBIBYTE:.3g} GiB of memory"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
