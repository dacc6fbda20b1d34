"""What the scripts with programs that are not ours have in common."""
import contextlib, socket, sys, time


class Bench:
    """Counts what holds, and names what does not."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, name, ok, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: {detail}")

    def same(self, name, got, want):
        self.check(name, got == want, f"got {got!r:.300}, want {want!r:.300}")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(ready, process, seconds=10):
    """Waits until `ready()`, which a process is to bring about."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{process.args} has ended with {process.returncode}")
        if ready():
            return
        time.sleep(0.02)
    sys.exit(f"{process.args} was not ready within {seconds} s")
