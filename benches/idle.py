#!/usr/bin/env python3
"""What idle keep-alive connections cost a near proxy: bytes of memory each, by the difference of its resident set.

    cargo build --release && python3 benches/idle.py

Each connection carries one request, which the proxy answers, and then waits. Callers bind to 127.0.0.2 and further, since
one address has some 28,000 ports for one listener. The process needs as many descriptors as connections: as root it raises
its own limit. The kernel's memory for the sockets, some KB a connection on either side, is not the proxy's and is not
counted.
"""
import argparse
import os
import pathlib
import resource
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORTS_EACH = 20_000
REQUEST = b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n"


def resident(pid):
    """KiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    sys.exit("the proxy has ended")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect(port, number):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    s.bind((f"127.0.0.{2 + number // PORTS_EACH}", 0))
    s.connect(("127.0.0.1", port))
    return s


def raise_limit(need):
    """As many descriptors as there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(need, hard), max(need, hard)))
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", default=ROOT / "target/release/httptp")
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--waves", type=int, default=5, help="they are opened in so many waves, each when the one before rests")
    parser.add_argument("--rest", type=float, default=12, help="how long they are quiet then, in seconds")
    parser.add_argument("--most", type=int, help="fail if a connection at rest takes more bytes")
    args = parser.parse_args()
    limit = raise_limit(args.connections + 1000)
    if limit < args.connections + 1000:
        args.connections = limit - 1000
        print(f"no more than {args.connections}: the limit on descriptors cannot be raised")
    port = free_port()
    # It answers by itself: 405.
    proxy = subprocess.Popen([args.httptp, f"--in=127.0.0.1:{port}", "--out-type=http", "--out=127.0.0.1:9", "--expvar-addr=",
                              "--in-get-only", "--log-level=error"])
    try:
        while True:
            try:
                connect(port, 0).close()
                break
            except OSError:
                time.sleep(0.05)
        time.sleep(0.5)
        start = resident(proxy.pid)
        print(f"with none: {start / 1024:.1f} MiB")
        print("| connections | opened in, s | resident then, MiB | resident at rest, MiB |\n|---|---|---|---|")
        connections, sizes, wave = [], [], args.connections // args.waves
        for number in range(1, args.waves + 1):
            began = time.monotonic()
            while len(connections) < number * wave:
                # Some at a time: the listener's queue is limited.
                some = [connect(port, len(connections) + n) for n in range(min(200, number * wave - len(connections)))]
                for s in some:
                    s.sendall(REQUEST)
                for s in some:
                    if not s.recv(4096).startswith(b"HTTP/1.1 405"):
                        sys.exit("an answer of another kind")
                connections += some
            took = time.monotonic() - began
            fresh = resident(proxy.pid)
            time.sleep(args.rest)
            sizes.append(resident(proxy.pid))
            print(f"| {len(connections)} | {took:.1f} | {fresh / 1024:.0f} | {sizes[-1] / 1024:.0f} |", flush=True)
        print(f"bytes for each that was just used: {(sizes[0] - start) * 1024 / wave:.0f}")
        each = (sizes[-1] - sizes[0]) * 1024 / (wave * (args.waves - 1))
        print(f"bytes for each at rest (what the waves after the first add, which use again what the one before gave back): {each:.0f}")
        if args.most and each > args.most:
            sys.exit(f"more than {args.most}")
        # They still work, and end with the process.
        for s in connections[::1000]:
            s.sendall(REQUEST)
            if not s.recv(4096).startswith(b"HTTP/1.1 405"):
                sys.exit("a connection that has rested does not answer")
    finally:
        proxy.kill()
        proxy.wait()


if __name__ == "__main__":
    main()
