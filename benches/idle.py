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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", default=ROOT / "target/release/httptp")
    parser.add_argument("--steps", default="1000,10000,100000", help="how many connections, one after another")
    parser.add_argument("--most", type=int, help="fail if a connection takes more bytes at the last step")
    args = parser.parse_args()
    steps = [int(step) for step in args.steps.split(",")]
    need = max(steps) + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(hard, need)))
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
        print("| connections | resident, MiB | bytes each | opened in, s |\n|---|---|---|---|")
        for step in steps:
            connections, began = [], time.monotonic()
            while len(connections) < step:
                # Some at a time: the listener's queue is limited.
                some = [connect(port, len(connections) + n) for n in range(min(200, step - len(connections)))]
                for s in some:
                    s.sendall(REQUEST)
                for s in some:
                    if not s.recv(4096).startswith(b"HTTP/1.1 405"):
                        sys.exit("an answer of another kind")
                connections += some
            took = time.monotonic() - began
            time.sleep(1)
            now = resident(proxy.pid)
            each = (now - start) * 1024 / step
            print(f"| {step} | {now / 1024:.1f} | {each:.0f} | {took:.1f} |", flush=True)
            for s in connections:
                s.close()
            time.sleep(2)
        if args.most and each > args.most:
            sys.exit(f"{each:.0f} bytes a connection: more than {args.most}")
        print(f"after all have gone: {resident(proxy.pid) / 1024:.1f} MiB")
    finally:
        proxy.kill()
        proxy.wait()


if __name__ == "__main__":
    main()
