#!/usr/bin/env python3
"""HTTP end to end through a pair of httptp, with programs that are not ours.

curl -> near httptp -> link -> far httptp -> nginx

Each request is also made straight to nginx; status, body and the fields that matter must be the same byte by byte.
Runs with every compression of the link. Needs nginx and curl; everything listens on loopback, on ports that the
system picks.

usage: e2e.py --httptp PATH
"""
import argparse, contextlib, os, pathlib, re, random, shutil, signal, socket, subprocess, sys, tempfile

from common import Bench, free_port, listens, wait_for

NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; {user}
events {{ worker_connections 1024; }}
http {{
  access_log {dir}/access.log; default_type text/plain;
  client_max_body_size 64m; client_body_temp_path {dir}/bodies;
  server {{
    listen 127.0.0.1:{port}; root {dir}/www;
    location = /204 {{ return 204; }}
    location = /teapot {{ return 418 "short and stout\\n"; }}
    location = /fields {{ return 200 "$http_x_many $http_connection $http_x_hop $http_expect $http_te $request_uri\\n"; }}
    location = /method {{ return 200 "$request_method\\n"; }}
    location /put/ {{ alias {dir}/www/put/; dav_methods PUT DELETE; create_full_put_path on; }}
    location = /post {{ client_body_in_file_only on; proxy_pass http://127.0.0.1:{port}/posted; }}
    location = /posted {{ return 201 "posted $content_length\\n"; }}
  }}
}}
"""
FIELDS = ("content-type", "content-length", "etag", "last-modified", "location", "accept-ranges")


@contextlib.contextmanager
def running(command, port, log):
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait_for(lambda: listens(port), process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def curl(port, path, *options, data=None):
    """One request by curl: status, the fields that matter, body."""
    with tempfile.TemporaryDirectory() as work:
        head, body = f"{work}/head", f"{work}/body"
        command = ["curl", "-sS", "--max-time", "30", "-D", head, "-o", body, *options, f"http://127.0.0.1:{port}{path}"]
        done = subprocess.run(command, input=data, capture_output=True)
        if done.returncode:
            return (f"curl {done.returncode}: {done.stderr.decode().strip()}", {}, b"")
        heads = pathlib.Path(head).read_bytes().decode("latin-1").strip().split("\r\n\r\n")
        lines = heads[-1].split("\r\n")
        fields = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            fields[name.lower()] = value.strip()
        # With -I the head is all that curl writes.
        content = pathlib.Path(body).read_bytes() if os.path.exists(body) and "-I" not in options else b""
        return (lines[0].split(" ")[1], {k: v for k, v in fields.items() if k in FIELDS}, content)


def pipelined(port, paths):
    """All requests in one write on one connection; the bodies of the answers, in order."""
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths))
        data, bodies = b"", []
        while len(bodies) < len(paths):
            while (head := re.match(rb"(?s)(.*?)\r\n\r\n", data)) and (
                length := int(re.search(rb"(?i)content-length: (\d+)", head[1])[1])
            ) <= len(data) - head.end():
                bodies.append(data[head.end() : head.end() + length])
                data = data[head.end() + length :]
            if len(bodies) < len(paths) and not (more := s.recv(65536)) or len(bodies) == len(paths):
                break
            data += more
        return bodies


def exchange(bench, label, nginx, near, work, blob):
    """All the kinds of request, straight and through the tunnel."""
    both = lambda path, *options, data=None: (
        curl(near, path, *options, data=data),
        curl(nginx, path, *options, data=data),
    )
    straight = curl(nginx, "/big.bin", "-I")
    tag = straight[1].get("etag") or sys.exit(f"nginx gives no etag: {straight}")
    for name, path, options in (
        ("GET", "/small.txt", ()),
        ("GET with a query", "/small.txt?a=1&b=%20%2f&c=[x]|y", ("-g",)),
        ("GET 5 MB", "/big.bin", ()),
        ("GET part", "/big.bin", ("-r", "1000-1999")),
        ("GET 404", "/missing", ()),
        ("GET 301", "/dir", ()),
        ("GET 418", "/teapot", ()),
        ("GET empty", "/empty", ()),
        ("GET HTTP/1.0", "/small.txt", ("--http1.0",)),
        ("GET 204", "/204", ()),
        ("GET 304", "/big.bin", ("-H", f"If-None-Match: {tag}")),
        ("HEAD 5 MB", "/big.bin", ("-I",)),
        ("HEAD 404", "/missing", ("-I",)),
        ("HEAD 204", "/204", ("-I",)),
        ("method HEAD stays HEAD", "/method", ("-I",)),
        ("OPTIONS", "/small.txt", ("-X", "OPTIONS")),
        ("many fields", "/fields", sum((["-H", f"X-Many: {n}"] for n in range(3)), [])),
    ):
        got, want = both(path, *options)
        if name == "many fields":
            got, want = got[2], want[2]
        bench.same(f"{label} {name}", got, want)

    got = curl(near, "/fields", "-H", "Connection: X-Hop, close", "-H", "X-Hop: secret", "-H", "TE: trailers")
    bench.same(f"{label} hop-by-hop fields stop", b"secret" in got[2] or b"trailers" in got[2], False)

    bodies = pathlib.Path(work, "bodies")
    for name, options, size in (
        ("POST", (), 1000),
        ("POST 5 MB, Expect: 100-continue", ("-H", "Expect: 100-continue"), len(blob)),
        ("POST chunked", ("-H", "Transfer-Encoding: chunked", "-H", "Expect:"), 70_000),
        ("POST chunked, 100-continue", ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"), 3),
    ):
        for old in bodies.glob("*"):
            old.unlink()
        data = blob[:size]
        status, _, body = curl(near, "/post", *options, "--data-binary", "@-", data=data)
        bench.same(f"{label} {name} status", (status, body), ("201", f"posted {size}\n".encode()))
        stored = [path.read_bytes() for path in bodies.glob("*")]
        bench.check(f"{label} {name} body", stored == [data], f"{[len(s) for s in stored]} bytes arrived")
    for name, options in (("PUT", ()), ("PUT chunked", ("-H", "Transfer-Encoding: chunked"))):
        path = f"/put/{label.replace(' ', '-')}-{len(options)}"
        bench.same(f"{label} {name}", curl(near, path, *options, "-T", "-", data=blob)[0], "201")
        bench.same(f"{label} {name} read back", curl(near, path), curl(nginx, path))
        bench.same(f"{label} DELETE", curl(near, path, "-X", "DELETE")[0], "204")
    bench.same(f"{label} POST empty", curl(near, "/posted", "-X", "POST", "-d", "")[0], "201")

    paths = [f"/n/{n}.txt" for n in range(20)]
    want = [f"file {n}\n".encode() * (n + 1) for n in range(20)]
    bench.same(f"{label} pipelining", pipelined(near, paths), want)
    urls = [f"http://127.0.0.1:{near}{path}" for path in paths]
    got = subprocess.run(["curl", "-sS", "--max-time", "30", *urls], capture_output=True)
    bench.same(f"{label} keep-alive", got.stdout, b"".join(want))
    with tempfile.TemporaryDirectory() as out:
        command = ["curl", "-sS", "--no-progress-meter", "--max-time", "60", "-Z", "--parallel-max", "50", "-o", f"{out}/#1-#2"]
        subprocess.run([*command, f"http://127.0.0.1:{near}/n/[0-19].txt?[1-15]"], check=True)
        good = sum(path.read_bytes() == want[int(path.name.split("-")[0])] for path in pathlib.Path(out).glob("*"))
        bench.same(f"{label} 300 requests, 50 at once", good, 300)


def mistakes(bench, httptp, near, far, log):
    """What goes wrong says so in one line, and harms nothing else."""
    run = lambda *args: subprocess.run([httptp, *args], capture_output=True, text=True, timeout=20)
    busy = run("--in", f"127.0.0.1:{near}", "--out", "127.0.0.1:1")
    bench.check("port in use", busy.returncode == 1 and "in use" in busy.stderr and "Traceback" not in busy.stderr,
                (busy.returncode, busy.stderr))
    unknown = run("--no-such-flag")
    bench.check("unknown flag", unknown.returncode == 2 and "no-such-flag" in unknown.stderr
                and len(unknown.stderr.splitlines()) == 1, unknown.stderr)
    missing = run("-inType=https", "-inTLSCert=/nowhere.pem", "-inTLSKey=/nowhere.key")
    bench.check("certificate that is not there", missing.returncode != 0 and "/nowhere.pem" in missing.stderr, missing.stderr)
    alone, nobody = free_port(), free_port()
    with running([httptp, "--in", f"127.0.0.1:{alone}", "--out-type", "http", "--out", f"127.0.0.1:{nobody}"], alone, log):
        status, _, body = curl(alone, "/")
        bench.check("unreachable upstream", status == "502" and b"see that it runs" in body, (status, body))
    for name, data in (("HTTP to the teleport port", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
                       ("TLS to the teleport port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
                       ("noise to the teleport port", random.Random(1).randbytes(300))):
        with socket.create_connection(("127.0.0.1", far), 5) as s:
            s.settimeout(5)
            s.sendall(data)
            try:
                answer = s.recv(100)
            except ConnectionResetError:
                answer = b""
        bench.same(name, answer, b"")
    with socket.create_connection(("127.0.0.1", near), 5) as s:
        s.settimeout(5)
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))
        with contextlib.suppress(ConnectionResetError):
            while s.recv(1000):
                pass
    lines = pathlib.Path(log).read_text()
    for advice in ("give this proxy --in-type http", "have the peer connect without TLS", "have the caller use http://"):
        bench.check(f"the log advises: {advice}", advice in lines, lines[-2000:])
    bench.same("the proxies live on", curl(near, "/small.txt")[0], "200")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", default="target/release/httptp")
    httptp = os.path.abspath(parser.parse_args().httptp)
    bench, blob = Bench(), random.Random(7).randbytes(5_000_000)
    work = tempfile.mkdtemp(prefix="httptp-e2e-")
    os.chmod(work, 0o755)
    www = pathlib.Path(work, "www")
    for directory in ("www/put", "www/n", "www/dir", "bodies"):
        pathlib.Path(work, directory).mkdir(parents=True)
    (www / "small.txt").write_text("a small file\n")
    (www / "empty").write_bytes(b"")
    (www / "big.bin").write_bytes(blob)
    for n in range(20):
        (www / f"n/{n}.txt").write_text(f"file {n}\n" * (n + 1))
    nginx, port = shutil.which("nginx") or "/usr/sbin/nginx", free_port()
    user = "user root;" if os.getuid() == 0 else ""
    pathlib.Path(work, "nginx.conf").write_text(NGINX.format(dir=work, port=port, user=user))
    log = f"{work}/httptp.log"
    try:
        with running([nginx, "-c", f"{work}/nginx.conf", "-e", f"{work}/error.log"], port, f"{work}/nginx.log"):
            for compress in ("auto", "zstd", "flate", "none", "snappy"):
                near, far = free_port(), free_port()
                far_command = [httptp, "--in-type", "teleport", "--in", f"127.0.0.1:{far}", "--in-compress", compress,
                               "--out-type", "http", "--out", f"127.0.0.1:{port}"]
                # The near proxy is started in the original's own spelling.
                near_command = [httptp, "-inType=http", f"-in=127.0.0.1:{near}", "-outType=teleport",
                                f"-out=127.0.0.1:{far}", f"-outCompress={compress}", "-inMaxBodySize=16777216"]
                with running(far_command, far, log), running(near_command, near, log):
                    exchange(bench, compress, port, near, work, blob)
                    if compress == "flate":
                        mistakes(bench, httptp, near, far, log)
    finally:
        if bench.failed:
            print(f"logs of the proxies:\n{pathlib.Path(log).read_text()[-4000:]}")
        shutil.rmtree(work, ignore_errors=True)
    print(f"{bench.passed} passed, {bench.failed} failed")
    return 1 if bench.failed or not bench.passed else 0


if __name__ == "__main__":
    sys.exit(main())
