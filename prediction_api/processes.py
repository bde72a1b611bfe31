"""Processes of Linux as the server needs them: children that cannot outlive it, what they say, what they do."""

import ctypes
import errno
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

logger: Final = logging.getLogger(__name__)

PR_SET_PDEATHSIG: Final = 1
OUR_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

_prctl: Final = ctypes.CDLL(None, use_errno=True).prctl


class Line:
    """One end of the line between parent and child: a word up, a word down, and its end when either dies."""

    MAX_WORD: Final = 8192

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def say(self, word: str) -> None:
        """Send one word; nobody there to hear it is no error, since who is gone is noticed elsewhere."""
        try:
            self._connection.sendall(word.encode()[: self.MAX_WORD])
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

    def hear(self) -> str:
        """The next word, waiting for it; empty when the other end is gone."""
        try:
            return self._connection.recv(self.MAX_WORD).decode("utf-8", "replace")
        except ConnectionResetError:
            return ""

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def fork(work: Callable[[Line], int], *, keep_open: tuple[int, ...]) -> tuple[int, Line]:
    """
    A child that does *work*, and our end of the line to it.

    The child ends with the value of *work* as its status, by SIGKILL when its parent dies, and at once with status 0 on
    SIGTERM until it sets a handler of its own. It ignores SIGINT and SIGHUP, which a terminal sends to everybody: the
    parent decides. Of its parent's file descriptors above 2 it has only those of *keep_open*.
    """
    # A datagram per word: words cannot run together. SOCK_SEQPACKET also tells when the other end is gone.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    # A signal between fork and the child's own handlers would run the parent's handlers in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _be_a_child(work, Line(theirs), parent, {*keep_open, theirs.fileno()})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
    theirs.close()
    return pid, Line(ours)


def end_with_parent(number: signal.Signals) -> None:
    """In a child: be sent this signal when the parent dies."""
    _prctl(PR_SET_PDEATHSIG, number)


def _be_a_child(work: Callable[[Line], int], line: Line, parent: int, keep_open: set[int]) -> None:
    """Never returns: the stack above belongs to the parent."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked to take us along
            return
        _close_all_but(keep_open)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)
        status = work(line)
    except BaseException:  # whatever it was: it must not run on in the parent's code
        logger.exception("a process of the server broke")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _close_all_but(keep_open: set[int]) -> None:
    """Close what the parent had open: the lines to its other children, its selector, its wake-up pipe."""
    begin = 3
    for descriptor in sorted(keep_open):
        os.closerange(begin, descriptor)
        begin = max(begin, descriptor + 1)
    os.closerange(begin, os.sysconf("SC_OPEN_MAX") if begin > 65_536 else 65_536)


@dataclass(frozen=True)
class Usage:
    """What the kernel says of a process."""

    state: str
    """One letter: R runs or would like to, D waits for a disk, S sleeps, T is stopped."""
    processor_seconds: float


def usage_from(stat: str) -> Usage:
    """What a line of ``/proc/PID/stat`` says; the name in it may hold blanks and brackets."""
    fields = stat.rpartition(")")[2].split()
    return Usage(state=fields[0], processor_seconds=(int(fields[11]) + int(fields[12])) / CLOCK_TICKS)


def usage_of(pid: int) -> Usage | None:
    """What the kernel says of *pid*; ``None`` when it is gone."""
    try:
        return usage_from(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return None


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal; to a process that is gone is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def dead_children() -> list[tuple[int, int]]:
    """All children that ended, with their status as ``subprocess`` gives it; as PID 1 also those that are not ours."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def how_it_ended(status: int) -> str:
    """``signal SIGKILL`` or ``status 1``."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


class Signals:
    """The parent's signals as something to select on: no handler does anything while other code runs."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def catch(self, selector: selectors.BaseSelector) -> None:
        """From now on collect our signals, and wake *selector*."""
        selector.register(self._receiver, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in OUR_SIGNALS:
            signal.signal(number, _noted)

    def caught(self) -> list[int]:
        """What came since the last time."""
        try:
            return list(self._receiver.recv(4096))
        except BlockingIOError:
            return []


def _noted(*_: object) -> None:
    """Only so that the signal reaches the wake-up socket."""
