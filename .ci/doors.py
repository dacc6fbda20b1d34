#!/usr/bin/env python3
"""Every kind of door, with programs that are not ours on both sides.

curl over http, https (HTTP/1.1 and HTTP/2) and unix sockets -> httptp (-> link -> httptp) -> nginx over http, https and
unix sockets. Each answer is compared with nginx's own, byte by byte.

Needs nginx, curl and openssl; everything listens on loopback, on ports that the system picks.

usage: doors.py --httptp PATH
"""
import argparse, contextlib, itertools, os, pathlib, random, signal, subprocess, sys, tempfile

from common import Bench, free_port, listens, wait_for

NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type text/plain; client_max_body_size 64m; client_body_temp_path {dir}/bodies;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl; listen unix:{dir}/origin.sock;
    ssl_certificate {dir}/own.pem; ssl_certificate_key {dir}/own.key;
    root {dir}/www;
    location = /who {{ return 200 "$http_x_real_ip|$http_x_forwarded_for|$http_cookie\\n"; }}
    location = /method {{ return 200 "$request_method\\n"; }}
    location /put/ {{ alias {dir}/www/put/; dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""
CALLERS = ("http", "https/1.1", "https/2", "unix")
ORIGINS = ("http", "https", "unix")
WAYS = ("direct", "teleport", "teleports")


class World:
    def __init__(self, httptp, dir):
        self.httptp, self.dir = httptp, dir
        self.http, self.https = free_port(), free_port()
        www = dir / "www"
        (www / "put").mkdir(parents=True)
        os.chmod(dir, 0o755)
        os.chmod(www / "put", 0o777)
        (www / "small").write_text("a small one\n")
        (www / "empty").write_text("")
        (www / "large").write_bytes(random.Random(1).randbytes(3_000_000))
        # As people make them: marked as an authority's.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", dir / "own.key",
                        "-out", dir / "own.pem"], check=True, capture_output=True)
        user = "user root;" if os.geteuid() == 0 else ""
        (dir / "nginx.conf").write_text(NGINX.format(dir=dir, http=self.http, https=self.https, user=user))

    @contextlib.contextmanager
    def running(self, *args, ready, env=None):
        with open(self.dir / "log", "a") as log:
            process = subprocess.Popen([str(arg) for arg in args], stdout=log, stderr=log, env=os.environ | (env or {}))
        try:
            wait_for(ready, process)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    @contextlib.contextmanager
    def proxy(self, heard, spoken, out, *more, env=None):
        """A proxy in its own stack of flags; yields where it listens."""
        cert = ["--in-tls-cert", self.dir / "own.pem", "--in-tls-key", self.dir / "own.key"]
        flags = cert if heard in ("https", "teleports") else []
        if heard == "unix":
            where = self.dir / "in.sock"
            ready = where.exists
        else:
            port = free_port()
            where, ready = f"127.0.0.1:{port}", lambda: listens(port)
        if spoken in ("https", "teleports") and not env:
            flags += ["--out-tls-ca", self.dir / "own.pem"]
        args = [f"-inType={heard}", f"-in={where}", f"-outType={spoken}", f"-out={out}", "-outTimeout=30s", *flags, *more]
        with self.running(self.httptp, *args, ready=ready, env=env):
            yield where

    def origin(self, kind):
        return {"http": f"127.0.0.1:{self.http}", "https": f"localhost:{self.https}",
                "unix": self.dir / "origin.sock"}[kind]

    def curl(self, kind, where, target, *args):
        scheme, _, version = kind.partition("/")
        command = ["curl", "-sS", "-m", "30", *map(str, args)]
        if scheme == "unix":
            command += ["--unix-socket", str(where), f"http://localhost{target}"]
        elif scheme == "https":
            command += ["--http2" if version == "2" else "--http1.1", "--cacert", str(self.dir / "own.pem"),
                        f"https://{where}{target}"]
        else:
            command += [f"http://{where}{target}"]
        done = subprocess.run(command, capture_output=True)
        return done.stdout if done.returncode == 0 else done


def exercise(world, bench, caller, where, name):
    for target in ("/small", "/empty", "/large", "/nowhere"):
        want = world.curl("http", world.origin("http"), target, "-w", "%{http_code}")
        bench.same(f"{name} {target}", world.curl(caller, where, target, "-w", "%{http_code}"), want)
    version = {"https/2": b"2"}.get(caller, b"1.1")
    bench.same(f"{name} version", world.curl(caller, where, "/empty", "-w", "%{http_version}"), version)
    head = world.curl(caller, where, "/large", "-I")
    bench.same(f"{name} HEAD", b"content-length: 3000000" in head.lower() if isinstance(head, bytes) else head, True)
    put = world.dir / "www" / "put" / "it"
    put.unlink(missing_ok=True)
    world.curl(caller, where, "/put/it", "-T", world.dir / "www" / "large")
    body = (world.dir / "www" / "large").read_bytes()
    bench.same(f"{name} PUT", put.exists() and put.read_bytes() == body, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", required=True, type=lambda path: pathlib.Path(path).resolve())
    args = parser.parse_args()
    bench = Bench()
    with tempfile.TemporaryDirectory() as dir:
        world = World(args.httptp, pathlib.Path(dir))
        nginx = world.running("nginx", "-c", world.dir / "nginx.conf", ready=lambda: listens(world.http))
        with nginx:
            for caller, way, origin in itertools.product(CALLERS, WAYS, ORIGINS):
                heard = caller.partition("/")[0]
                with contextlib.ExitStack() as stack:
                    spoken, out = origin, world.origin(origin)
                    if way != "direct":
                        far = stack.enter_context(world.proxy(way, spoken, out))
                        spoken, out = way, f"localhost:{far.rpartition(':')[2]}"
                    near = stack.enter_context(world.proxy(heard, spoken, out))
                    exercise(world, bench, caller, near, f"{caller} {way} {origin}")
            more(world, bench)
        if bench.failed:
            print((world.dir / "log").read_text()[-5000:])
    print(f"doors: {bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0)


def more(world, bench):
    # Who has sent it, as an origin that is not ours sees it.
    flags = ("-clientIPHeader=X-Real-IP", "--forwarded", "x-forwarded-for", "--in-allow-ip=127.0.0.0/8,::1",
             "-inMaxHeaderSize=8192")
    with world.proxy("https", "http", world.origin("http"), *flags) as where:
        said = ("-H", "X-Real-IP: 1.1.1.1", "-H", "X-Forwarded-For: 2.2.2.2", "-H", "Cookie: a=1; b=2")
        for caller in ("https/1.1", "https/2"):
            got = world.curl(caller, where, "/who", *said)
            bench.same(f"who, {caller}", got, b"127.0.0.1|2.2.2.2, 127.0.0.1|a=1; b=2\n")
        for caller in ("https/1.1", "https/2"):
            for length, status in ((7_000, b"200"), (10_000, b"431")):
                large = ("-H", "X: " + "x" * length, "-o", world.dir / "out", "-w", "%{http_code}")
                bench.same(f"a head of {length}, {caller}", world.curl(caller, where, "/small", *large), status)
    with world.proxy("http", "http", world.origin("http"), "--in-proxy-protocol") as where:
        got = world.curl("http", where, "/small")
        bench.same("no PROXY header", isinstance(got, subprocess.CompletedProcess) and got.returncode in (52, 56), True)
    # The system's authorities, which are this one.
    with world.proxy("http", "https", world.origin("https"), env={"SSL_CERT_FILE": str(world.dir / "own.pem")}) as where:
        bench.same("authorities of the system", world.curl("http", where, "/small"), b"a small one\n")


main()
