#!/usr/bin/env python3
"""Certificates on demand, from an ACME authority that is not ours: pebble, the test server of Let's Encrypt.

curl -> httptp --in-type https, without a certificate of its own -> an origin
            ^ pebble looks whether the name leads here (tls-alpn-01), and signs

Needs pebble (with pebble-challtestsrv), curl and openssl; everything listens on loopback, on ports that the system picks.

usage: acme.py --httptp PATH
"""
import argparse, concurrent.futures, http.server, json, os, pathlib, re, signal, subprocess, sys, tempfile
import threading, urllib.request

from common import Bench, free_port, listens, wait_for


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello {self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def run(*args, **kwargs):
    return subprocess.run(args, check=True, capture_output=True, text=True, **kwargs).stdout


class World:
    def __init__(self, httptp, dir, validity=90 * 24 * 3600):
        self.httptp, self.dir, self.processes = httptp, dir, []
        origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        self.origin = origin.server_address[1]
        self.port = free_port()
        # The authority's own server needs a certificate to be believed by.
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pebble",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", dir / "pebble.key", "-out", dir / "pebble.pem")
        self.acme, self.management, dns, self.dns_management = (free_port() for _ in range(4))
        config = {"pebble": {
            "listenAddress": f"127.0.0.1:{self.acme}", "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(dir / "pebble.pem"), "privateKey": str(dir / "pebble.key"),
            "httpPort": free_port(), "tlsPort": self.port, "ocspResponderURL": "", "externalAccountBindingRequired": False,
            "certificateValidityPeriod": validity,
        }}
        (dir / "pebble.json").write_text(json.dumps(config))
        names = self.start("names", "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "",
                           "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{dns}",
                           "-management", f"127.0.0.1:{self.dns_management}")
        wait_for(lambda: listens(self.dns_management), names, 20)
        pebble = self.start("pebble", "pebble", "-config", dir / "pebble.json", "-dnsserver", f"127.0.0.1:{dns}",
                            env=os.environ | {"PEBBLE_VA_NOSLEEP": "1"})
        wait_for(lambda: listens(self.acme), pebble, 20)
        (dir / "root.pem").write_text(run("curl", "-sS", "--cacert", dir / "pebble.pem",
                                          f"https://localhost:{self.management}/roots/0"))

    def start(self, name, *args, **kwargs):
        with open(self.dir / f"{name}.log", "a") as log:
            process = subprocess.Popen([str(arg) for arg in args], stdout=log, stderr=log, cwd=self.dir, **kwargs)
        self.processes.append(process)
        return process

    def start_proxy(self):
        proxy = self.start("httptp", self.httptp, "-in", f"127.0.0.1:{self.port}", "-inType=https", "-outType=http",
                           "-out", f"127.0.0.1:{self.origin}", "-autocertCacheDir", self.dir / "cache",
                           r"-autocertHostRegexp=^[a-z0-9-]+\.example\.com$",
                           "--autocert-directory", f"https://localhost:{self.acme}/dir",
                           "--autocert-ca", self.dir / "pebble.pem", "--autocert-email", "me@example.com")
        wait_for(lambda: listens(self.port), proxy, 20)
        return proxy

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        process.wait(10)

    def curl(self, name, *args):
        command = ["curl", "-sS", "-m", "60", "--cacert", self.dir / "root.pem", "--resolve",
                   f"{name}:{self.port}:127.0.0.1", *args, f"https://{name}:{self.port}/"]
        return subprocess.run(command, capture_output=True, text=True)

    def serial(self, name):
        shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-servername", name],
                               input="", capture_output=True, text=True).stdout
        return run("openssl", "x509", "-noout", "-serial", input=shown).strip()

    def orders(self, log="httptp"):
        return re.findall(r"asking \S+ for a certificate for (\S+)", (self.dir / f"{log}.log").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", required=True, type=lambda path: pathlib.Path(path).resolve())
    args = parser.parse_args()
    bench = Bench()
    with_world(bench, exercise, args.httptp)
    # Good for 24 s, made anew in the last 8.
    with_world(bench, exercise_renewal, args.httptp, validity=24)
    print(f"acme: {bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0)


def with_world(bench, exercise, httptp, **kwargs):
    with tempfile.TemporaryDirectory() as dir:
        world = World(httptp, pathlib.Path(dir), **kwargs)
        failed = bench.failed
        try:
            exercise(world, bench)
        finally:
            for process in reversed(world.processes):
                if process.poll() is None:
                    process.terminate()
                    process.wait(10)
            if bench.failed > failed:
                for log in ("httptp", "pebble"):
                    print(f"== {log}\n{(pathlib.Path(dir) / f'{log}.log').read_text()}")


def exercise_renewal(world, bench):
    proxy = world.start_proxy()
    kept = world.dir / "cache" / "a.example.com"
    bench.check("a certificate that is good for a short while", world.curl("a.example.com").returncode == 0)

    def is_renewed(before):
        return lambda: kept.read_text() != before

    first = kept.read_text()
    wait_for(is_renewed(first), proxy, 100)
    second = kept.read_text()
    bench.check("it is made anew though nobody asks", world.orders() == ["a.example.com"] * 2, world.orders())
    shown = world.serial("a.example.com")
    bench.check("the new one is shown", shown == run("openssl", "x509", "-noout", "-serial", "-in", kept).strip(), shown)
    world.stop(proxy)
    proxy = world.start_proxy()
    wait_for(is_renewed(second), proxy, 100)
    bench.check("after a restart, too", world.orders() == ["a.example.com"] * 3, world.orders())
    world.stop(proxy)


def exercise(world, bench):
    proxy = world.start_proxy()
    cache = world.dir / "cache"

    first = world.curl("a.example.com", "--http2", "-w", "%{http_version}")
    bench.check("a certificate on demand", first.stdout == f"hello a.example.com:{world.port}\n2", first)
    serial = world.serial("a.example.com")
    bench.check("it serves again", world.curl("A.Example.com").returncode == 0 and world.serial("a.example.com") == serial)
    bench.check("one order", world.orders() == ["a.example.com"], world.orders())
    bench.check("it is kept for its owner", (cache / "a.example.com").stat().st_mode & 0o77 == 0)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        many = list(pool.map(lambda _: world.curl("b.example.com"), range(12)))
    bench.check("twelve at once", all(one.returncode == 0 for one in many), many)
    bench.check("still one order for each", sorted(world.orders()) == ["a.example.com", "b.example.com"], world.orders())

    refused = world.curl("a.example.org")
    bench.check("no name that does not match", refused.returncode == 35, refused)
    bench.check("nor is it asked for", len(world.orders()) == 2, world.orders())
    unnamed = subprocess.run(["curl", "-sSk", f"https://127.0.0.1:{world.port}/"], capture_output=True, text=True)
    bench.check("nor none", unnamed.returncode == 35, unnamed)

    # A name that leads elsewhere: nobody listens there.
    body = json.dumps({"host": "elsewhere.example.com", "addresses": ["127.9.9.9"]}).encode()
    urllib.request.urlopen(f"http://127.0.0.1:{world.dns_management}/add-a", body).read()
    elsewhere = world.curl("elsewhere.example.com")
    log = (world.dir / "httptp.log").read_text()
    bench.check("no certificate for what leads elsewhere", elsewhere.returncode == 35, elsewhere)
    # The order may have failed already when its state is asked for; then the authority's own words are all there is.
    why = re.search("no certificate for elsewhere.example.com: (the authority does not believe|API error: .*127.9.9.9)", log)
    bench.check("and the log says why", why, log)
    again = world.curl("elsewhere.example.com")
    bench.check("nor is it tried again at once", again.returncode == 35 and len(world.orders()) == 3, world.orders())
    bench.check("others go on", world.curl("a.example.com").returncode == 0)

    world.stop(proxy)
    proxy = world.start_proxy()
    bench.check("after a restart", world.serial("a.example.com") == serial)
    bench.check("it is the one that was kept", world.orders().count("a.example.com") == 1, world.orders())
    bench.check("a new name after a restart", world.curl("c.example.com").returncode == 0)
    accounts = (world.dir / "httptp.log").read_text().count("made an account")
    bench.check("by the same account", accounts == 1, accounts)

    (cache / "a.example.com").write_text("broken")
    world.stop(proxy)
    proxy = world.start_proxy()
    bench.check("what is broken is made anew", world.curl("a.example.com").returncode == 0)
    bench.check("with another serial", world.serial("a.example.com") != serial)
    world.stop(proxy)


main()
