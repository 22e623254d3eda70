"""The worker's main: limits first, then one request after the other until the other side is gone or asks no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from ._wire import Array, ClosedError, receive, send

__all__ = ["IDLE_EXIT", "main"]

IDLE_EXIT = 75
_IDLE = 120.0  # seconds without a request, after which it ends; the next request starts another


def main(fd: int) -> None:
    link = socket.socket(fileno=fd)
    _settle()
    from ._inference import infer_node  # onnx and its runtime: while the other side still imports the model
    from ._sessions import Session, open_session

    sessions: dict[int, Session] = {}
    while True:
        link.settimeout(_IDLE)
        try:
            waiting = link.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            sys.exit(IDLE_EXIT)
        except OSError:
            return
        if not waiting:
            return
        link.settimeout(None)
        try:
            request, arrays, files = receive(link)
            for number in request["closed"]:
                sessions.pop(number, None)
            try:
                if request["do"] == "open":
                    _limit(request["memory"])
                    session = open_session(request, arrays, files)
                    sessions[request["session"]] = session
                    answer: dict[str, Any] = {"version": session.version}
                    results: list[Array] = []
                elif request["do"] == "infer":
                    names, results = infer_node(arrays[0].tobytes())
                    answer = {"names": names}
                else:
                    names, results = sessions[request["session"]].run(request["inputs"], arrays)
                    answer = {"names": names}
            except Exception as error:  # the framework's own complaint, of whatever class
                answer, results = {"error": _one_line(error)}, []
            finally:
                for each in files:
                    os.close(each)
            del request, arrays
            send(link, answer, results)
        except ClosedError:
            return


def _one_line(error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return "it needs more memory than it is given" if isinstance(error, MemoryError) or "bad_alloc" in text else text


def _settle() -> None:
    """It ends with the process that started it; an interrupt from the terminal is that one's to handle; when memory runs out it is the one
    to be ended; and it leaves no core file."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _follow(parent: int) -> None:
    """End where nobody waits for an answer any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _limit(memory: int) -> None:
    """No more bytes of data than this, beside what it holds already."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (memory if hard < 0 else min(memory, hard), hard))
