#!/usr/bin/env python3
"""Faults of the whole process and of the network: what a proxy does when the system gives it nothing.

A disk that is full for its log, no file descriptors left, a clock that jumps, memory beyond its budget, callers that are
slow or flood it; and, as root, a peer that vanishes behind a network that drops everything. In each of them the process must
live, what it takes must be bounded, and afterwards all must be as before.

usage: faults.py --httptp PATH
"""
import argparse, contextlib, os, pathlib, resource, shutil, signal, socket, subprocess, sys, tempfile, threading, time

from common import Bench, free_port, listens, wait_for

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Origin:
    """Answers everything with 200 and a few bytes; large ones at /large, and slowly at /slow."""

    def __init__(self, addr="127.0.0.1"):
        self.listener = socket.create_server((addr, 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        with contextlib.suppress(OSError), stream, stream.makefile("rb") as reader:
            while line := reader.readline():
                length = 0
                while (field := reader.readline().strip().lower()):
                    if field.startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                reader.read(length)
                if b"/slow" in line:
                    time.sleep(1)
                body = b"x" * (4 << 20) if b"/large" in line else b"ok"
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@contextlib.contextmanager
def running(command, ready, **options):
    process = subprocess.Popen([str(part) for part in command], **options)
    try:
        wait_for(ready, process)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def proxy(httptp, port, out, *flags, **options):
    command = [httptp, f"--in=127.0.0.1:{port}", f"--out=127.0.0.1:{out}", "--out-type=http", *flags]
    with running(command, lambda: listens(port), **options) as process:
        yield process


def status(port, request=GET, timeout=10):
    """The status of the answer, or None without one."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as stream:
        stream.sendall(request)
        answer = stream.recv(4096)
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None


def resident(process):
    """KiB."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("the process has ended")


def figure(port, name):
    """One figure of /metrics."""
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: stream.recv(65536), b"")).decode()
    for line in text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def eventually(what, seconds=30):
    """Whether `what()` comes to hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False


def full_disk(bench, httptp, origin):
    """Each line of the log fails to be written, and nothing else does."""
    port = free_port()
    with open("/dev/full", "w") as full:
        with proxy(httptp, port, origin.port, "--expvar-addr=", "--access-log", "--log-all-errors", "--log-level=debug",
                   stderr=full, stdout=full) as process:
            for _ in range(200):
                bench.same("a full disk: answers", status(port), 200)
            bench.same("a full disk: refusals", status(port, b"GARBAGE\r\n\r\n"), 400)
            process.send_signal(signal.SIGHUP)
            bench.same("a full disk: after SIGHUP", status(port), 200)
            process.terminate()
            bench.same("a full disk: its end", process.wait(10), 0)


def closed_log(bench, httptp, origin):
    """The reader of the log is gone."""
    port = free_port()
    reading, writing = os.pipe()
    with proxy(httptp, port, origin.port, "--expvar-addr=", "--access-log", stderr=writing) as process:
        os.close(writing)
        os.close(reading)
        for _ in range(50):
            bench.same("a log that nobody reads: answers", status(port), 200)
        bench.check("a log that nobody reads: it lives", process.poll() is None)


def no_descriptors(bench, httptp, origin):
    """Callers beyond the limit wait or are refused; those within it, and everybody afterwards, are served."""
    port, most = free_port(), 100
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with proxy(httptp, port, origin.port, "--expvar-addr=", preexec_fn=limit, stderr=subprocess.DEVNULL) as process:
        callers = []
        for _ in range(2 * most):
            with contextlib.suppress(OSError):
                callers.append(socket.create_connection(("127.0.0.1", port), 2))
        time.sleep(1)
        cpu = lambda: sum(map(int, pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()[11:13]))
        began = cpu()
        time.sleep(2)
        spent = (cpu() - began) / os.sysconf("SC_CLK_TCK")
        bench.check("no descriptors: it does not spin", spent < 0.5, f"{spent} s of CPU in 2 s")
        bench.check("no descriptors: it lives", process.poll() is None)
        callers[0].sendall(GET)
        callers[0].settimeout(10)
        answer = callers[0].recv(100)
        bench.check("no descriptors: who is in has an answer", answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 502")), answer)
        for caller in callers:
            caller.close()
        bench.check("no descriptors: served afterwards", eventually(lambda: status(port) == 200))


def clock_jumps(bench, httptp, origin):
    """Time-outs go by a clock that does not jump, and the wall clock only dates things."""
    faketime = shutil.which("faketime")
    library = next(pathlib.Path("/usr/lib").rglob("libfaketimeMT.so.1"), None) if faketime else None
    if library is None:
        print("clock jumps: faketime is not installed, left out")
        return
    with tempfile.TemporaryDirectory() as folder:
        clock = pathlib.Path(folder) / "clock"
        clock.write_text("+0")
        env = os.environ | {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                            "DONT_FAKE_MONOTONIC": "1"}
        port = free_port()
        with proxy(httptp, port, origin.port, "--expvar-addr=", "--access-log", "--make-traceparent", env=env,
                   stderr=subprocess.DEVNULL) as process:
            with socket.create_connection(("127.0.0.1", port), 10) as kept:
                for jump in ("+0", "+10y", "-10y", "+1d", "-40y"):
                    clock.write_text(jump)
                    kept.sendall(GET)
                    bench.check(f"a clock that jumps by {jump}: kept connections", kept.recv(4096).startswith(b"HTTP/1.1 200"))
                    bench.same(f"a clock that jumps by {jump}: slow answers", status(port, GET.replace(b"/ ", b"/slow ")), 200)
            bench.check("a clock that jumps: it lives", process.poll() is None)


def memory_budget(bench, httptp, origin):
    """Bodies and answers far beyond the budget: the process stays within it and some."""
    port, figures, budget = free_port(), free_port(), 64 << 20
    with proxy(httptp, port, origin.port, f"--expvar-addr=127.0.0.1:{figures}", f"--memory-budget={budget}",
               "--out-timeout=10s", stderr=subprocess.DEVNULL) as process:
        before, most = resident(process), 0
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n"
        answers = []

        def upload():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as stream:
                stream.sendall(head)
                stream.sendall(b"x" * 3_900_000)
                answers.append(stream.recv(100)[9:12])

        def download():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as stream:
                stream.sendall(GET.replace(b"/ ", b"/large "))
                time.sleep(5)

        threads = [threading.Thread(target=work) for _ in range(100) for work in (upload, download)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, resident(process))
            time.sleep(0.05)
        peak, shed = figure(figures, "httptp_memory_peak_bytes"), figure(figures, "httptp_memory_shed_total")
        print(f"memory budget {budget >> 20} MiB, 800 MB of load: resident {before >> 10} MiB before, {most >> 10} MiB at most; "
              f"counted {peak / 2**20:.0f} MiB at most; {shed:.0f} shed")
        bench.check("memory: the attack was one", shed > 50 and b"503" in answers, (shed, answers))
        bench.check("memory: what is counted", peak < 1.25 * budget, peak)
        # Sockets' and allocator's own included.
        bench.check("memory: what is resident", (most - before) * 1024 < 2.5 * budget, (before, most))
        bench.check("memory: it comes back", eventually(lambda: figure(figures, "httptp_memory_held_bytes") < 1 << 20))
        bench.same("memory: served afterwards", status(port), 200)


def slow_and_flooding(bench, httptp, origin):
    """A flood of connections that say a byte now and then, and one of pipelined requests whose answers nobody reads."""
    port, figures = free_port(), free_port()
    with proxy(httptp, port, origin.port, f"--expvar-addr=127.0.0.1:{figures}", f"--memory-budget={256 << 20}",
               stderr=subprocess.DEVNULL) as process:
        before = resident(process)
        slow = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(500)]
        flood = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(20)]
        for stream in flood:
            stream.settimeout(0.2)
        for round in range(10):
            for stream in slow:
                with contextlib.suppress(OSError):
                    stream.sendall(GET[round:round + 1])
            for stream in flood:
                with contextlib.suppress(OSError):
                    stream.send(GET.replace(b"/ ", b"/large ") * 50)
            bench.same("slow heads and a flood: others are served", status(port), 200)
        most = resident(process)
        print(f"500 slow heads and 20 floods: resident {before >> 10} MiB before, {most >> 10} MiB then")
        bench.check("slow heads and a flood: memory", most - before < 256 << 10, (before, most))
        for stream in slow + flood:
            stream.close()
        bench.check("slow heads and a flood: all comes back",
                    eventually(lambda: figure(figures, "httptp_memory_held_bytes") < 1 << 20))


def dead_peer(bench, httptp):
    """Between two network namespaces whose link goes down: requests fail in time, and afterwards the next one is answered."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        print("dead peer: takes root and iproute2, left out")
        return
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)
    name = f"httptp{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        print(f"dead peer: {error.stderr.decode().strip()}, left out")
        return
    try:
        run("ip", "link", "add", "fa" + name[-6:], "type", "veth", "peer", "name", "fb" + name[-6:], "netns", name)
        run("ip", "addr", "add", "10.213.0.1/30", "dev", "fa" + name[-6:])
        run("ip", "link", "set", "fa" + name[-6:], "up")
        inside = ("ip", "netns", "exec", name)
        run(*inside, "ip", "addr", "add", "10.213.0.2/30", "dev", "fb" + name[-6:])
        run(*inside, "ip", "link", "set", "fb" + name[-6:], "up")
        origin, far, near = Origin("10.213.0.1"), 8043, free_port()
        reaches = lambda: not subprocess.call([*inside, "true"]) and connects("10.213.0.2", far)
        with running([*inside, httptp, "--in-type=teleport", f"--in=10.213.0.2:{far}", "--out-type=http",
                      f"--out=10.213.0.1:{origin.port}", "--expvar-addr="], reaches, stderr=subprocess.DEVNULL):
            with running([httptp, f"--in=127.0.0.1:{near}", f"--out=10.213.0.2:{far}", "--expvar-addr=", "--out-timeout=2s"],
                         lambda: listens(near), stderr=subprocess.DEVNULL) as process:
                bench.same("dead peer: before", status(near), 200)
                # Nothing arrives any more, and nobody is told.
                run(*inside, "ip", "link", "set", "fb" + name[-6:], "down")
                # What the kernel still tries to say on those that were closed does not count.
                ask = ["ss", "-tnH", "state", "established", "dst", f"10.213.0.2:{far}"]
                sockets = lambda: subprocess.run(ask, capture_output=True, text=True).stdout
                link = sockets().split()[2]
                began = time.monotonic()
                bench.same("dead peer: the first request", status(near), 504)
                gone = lambda: (status(near), link not in sockets())[1]
                bench.check("dead peer: its link is given up", eventually(gone, 40), sockets())
                print(f"a dead peer was found {time.monotonic() - began:.1f} s after the first request that it did not answer")
                bench.check("dead peer: in the time that is promised", time.monotonic() - began < 20)
                run(*inside, "ip", "link", "set", "fb" + name[-6:], "up")
                bench.check("dead peer: afterwards", eventually(lambda: status(near) == 200))
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def connects(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", required=True, type=pathlib.Path)
    parser.add_argument("--only", help="one of them")
    args = parser.parse_args()
    bench, httptp, origin = Bench(), args.httptp.resolve(), Origin()
    for fault in (full_disk, closed_log, no_descriptors, clock_jumps, memory_budget, slow_and_flooding):
        if args.only in (None, fault.__name__):
            fault(bench, httptp, origin)
    if args.only in (None, "dead_peer"):
        dead_peer(bench, httptp)
    print(f"{bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0)


if __name__ == "__main__":
    main()
