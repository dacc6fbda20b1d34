#!/usr/bin/env python3
"""Runs every command of deploy/USE-CASES.md as it stands there, and what else deploy/ says about the program.

Needs nginx, curl, openssl, systemd's tools (systemd-socket-activate, systemd-analyze) and PyYAML.
"""
import argparse, http.client, os, pathlib, re, signal, socket, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request

import yaml

from common import Bench, listens, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "deploy/USE-CASES.md"
ORIGINS = (8000, 8001)
NGINX = """
worker_processes 1; daemon off; pid %(dir)s/nginx.pid; error_log %(dir)s/nginx.log;
events { worker_connections 4096; }
http {
    access_log off; client_body_temp_path %(dir)s/body; keepalive_requests 1000000;
%(servers)s
}
"""
SERVER = '    server { listen 127.0.0.1:%d; location / { return 200 "origin %d: $request_method $request_uri\\n"; } }'


def make_certificates(directory):
    """By the page's own commands."""
    commands = re.search(r"^```sh certificates\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)[1]
    subprocess.run(["bash", "-e", "-c", commands], cwd=directory, check=True, capture_output=True)


def use_cases():
    """(title, commands that start, commands that try, what comes out) of each section that has them."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]:
        blocks = dict(re.findall(r"^```(sh try|sh|text)\n(.*?)^```", section, flags=re.M | re.S))
        if "sh try" in blocks:
            yield section.splitlines()[0], blocks["sh"].splitlines(), blocks["sh try"], blocks["text"]


def listening(command, directory):
    words = dict(re.findall(r"--(in|in-type) (\S+)", command))
    if words.get("in-type") == "unix":
        return lambda: (directory / words["in"]).exists()
    return lambda: listens(int(words["in"].rsplit(":", 1)[1]))


def end(processes):
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(15)


def check_use_cases(bench, httptp, directory):
    environment = dict(os.environ, PATH=f"{httptp.parent}:{os.environ['PATH']}", HTTPTP_LOG_LEVEL="warn")
    for title, commands, attempt, wanted in use_cases():
        processes = []
        try:
            for number, command in enumerate(commands):
                # Two proxies here, one at a time in earnest: only the first can have the page with figures.
                process = subprocess.Popen("exec " + command, shell=True, cwd=directory, env=environment, stderr=subprocess.DEVNULL)
                processes.append(process)
                wait_for(listening(command, directory), process)
            done = subprocess.run(["bash", "-c", attempt], cwd=directory, env=environment, capture_output=True, text=True, timeout=30)
            bench.same(f"{title}: what comes out", done.stdout, wanted)
        finally:
            end(processes)
        bench.check(f"{title}: the proxies end in order", all(process.returncode == 0 for process in processes))


def check_units(bench, httptp, directory):
    """The units are well-formed, and the options in them are the program's."""
    units = directory / "units"
    units.mkdir()
    for unit in (ROOT / "deploy/systemd").iterdir():
        (units / unit.name).write_text(unit.read_text().replace("/usr/local/bin/httptp", str(httptp)))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, sorted(units.iterdir()))], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if str(units) in line or "httptp" in line]
    bench.same("the units are what systemd takes", complaints, [])
    unit = (units / "httptp.service").read_text()
    offered = re.sub("^#(?=LoadCredential=|Environment=|SupplementaryGroups=)", "", unit, flags=re.M)
    (units / "httptp.service").write_text(offered)
    done = subprocess.run(["systemd-analyze", "verify", *map(str, sorted(units.iterdir()))], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if str(units) in line or "httptp" in line]
    bench.same("and so are the lines about keys that they offer", complaints, [])
    credentials = directory / "credentials"
    credentials.mkdir()
    for name in re.findall("^LoadCredential=([^:]+):", offered, flags=re.M):
        made = directory / ("near.key" if name == "near.key" else "far.key")
        (credentials / name).write_text("secret\n" if name == "tickets" else made.read_text())
    settings = [word for line in re.findall("^Environment=(.*)$", offered, flags=re.M) for word in line.split()]
    settings = [word.replace("%d", str(credentials)).replace("/etc/httptp", str(directory)) for word in settings]
    command = [httptp, "check", "--in-type=teleports", "--out-type=teleports", "--out=localhost:8443"]
    done = subprocess.run(command, env=dict(os.environ, **dict(word.split("=", 1) for word in settings)), capture_output=True, text=True)
    notes = [line for line in done.stderr.splitlines() if "note" in line and "HTTPTP" in line and "expires" not in line]
    bench.check("and the variables in them are the program's", done.returncode == 0 and len(settings) == 5 and not notes, done.stderr)

    config = directory / "near.toml"
    config.write_text('out = ["127.0.0.1:8000"]\nout-type = "http"\nexpvar-addr = "127.0.0.1:8040"\nstop-delay = "1s"\n')
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(directory / "notify"))
    notify.settimeout(10)
    command = ["systemd-socket-activate", "-l", "127.0.0.1:8080", f"--setenv=NOTIFY_SOCKET={directory}/notify",
               str(httptp), "--config", str(config), "--in", "systemd"]
    process = subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(8080), process)
        bench.same("the service manager is told of the start", notify.recv(100), b"READY=1\n")
        bench.same("the socket that was handed over is served", fetch("http://127.0.0.1:8080/handed"), (200, "origin 8000: GET /handed\n"))
        bench.same("it is ready", fetch("http://127.0.0.1:8040/readyz"), (200, "ready\n"))
        process.send_signal(signal.SIGTERM)
        bench.same("the service manager is told of the end", notify.recv(100), b"STOPPING=1\n")
        bench.same("it is not ready when it stops", fetch("http://127.0.0.1:8040/readyz"), (503, "stopping\n"))
        bench.same("but alive", fetch("http://127.0.0.1:8040/healthz"), (200, "alive\n"))
        bench.same("and goes on for --stop-delay", fetch("http://127.0.0.1:8080/late"), (200, "origin 8000: GET /late\n"))
        bench.same("and ends in order", process.wait(15), 0)
    finally:
        end([process])


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# What the compression of a busy link takes, zstd at both ends of it together: deploy/kubernetes/far.yaml.
LINK_BYTES = 6.3e6


def check_manifests(bench, httptp):
    """The manifests are YAML, their proxies take the arguments in them, and have the memory for as many links as there can be."""
    pods, memory = {}, {}
    for path in sorted((ROOT / "deploy/kubernetes").iterdir()):
        seen = 0
        for manifest in yaml.safe_load_all(path.read_text()):
            bench.check(f"{path.name}: a manifest says what it is", {"apiVersion", "kind", "metadata"} <= manifest.keys())
            if manifest["kind"] == "Deployment":
                surge = manifest["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 1)
                pods[path.stem] = max(pods.get(path.stem, 0), manifest["spec"]["replicas"] + surge)
            if manifest["kind"] == "HorizontalPodAutoscaler":
                pods[path.stem] = manifest["spec"]["maxReplicas"] + 1
            spec = manifest.get("spec", {}).get("template", {}).get("spec", {})
            for container in spec.get("initContainers", []) + spec.get("containers", []):
                if container["name"] != "httptp":
                    continue
                seen += 1
                memory[path.stem] = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
                done = subprocess.run([httptp, "check", *container["args"]], capture_output=True, text=True)
                bench.check(f"{path.name}: the proxy takes its arguments", done.returncode == 0, done.stderr)
                ports = {port["name"]: port["containerPort"] for port in container["ports"]}
                for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                    if probe in container:
                        bench.same(f"{path.name}: {probe} asks where figures are", ports[container[probe]["httpGet"]["port"]], 8040)
        bench.check(f"{path.name}: a proxy is in it", seen == 1)
    for side, peers in (("near", pods["far"]), ("far", pods["near"])):
        # Half of the limit is the budget, half of that is for links.
        bench.check(f"{side}.yaml: there is memory for links to {peers} pods", memory[side] / 4 >= peers * LINK_BYTES)


class Caller(threading.Thread):
    """Posts one after the other on connections kept open, and counts what comes back."""

    def __init__(self):
        super().__init__()
        self.sent, self.wrong, self.over = 0, [], threading.Event()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=20)
        while not self.over.is_set():
            self.sent += 1
            connection.request("POST", f"/{self.sent}", body=b"x" * 100)
            response = connection.getresponse()
            got = response.status, response.read().decode()
            if got != (200, f"origin 8000: POST /{self.sent}\n"):
                self.wrong.append(got)


def rolling_restart(httptp, directory, by_name):
    """How many requests there were, and what was wrong with answers, while far proxies are replaced one after the other: behind
    one name as in Kubernetes, out of the name, told to stop, a new one, into the name; or in a list that is fixed, where only
    what a far proxy says on its links tells that it goes."""
    quiet = {"stderr": subprocess.DEVNULL, "cwd": directory}
    hosts = directory / "hosts"
    # Written in place: the near proxy has this very file in place of /etc/hosts.
    name = lambda ips: hosts.write_text("".join(f"{ip} fars\n" for ip in ips))

    def far(ip):
        command = [httptp, "--in-type", "teleport", "--in", f"{ip}:8043", "--out-type", "http", "--out", "127.0.0.1:8000",
                   "--expvar-addr", f"{ip}:8040"] + ["--stop-delay", "2s"] * by_name
        process = subprocess.Popen(command, **quiet)
        wait_for(lambda: fetch_ready(ip), process)
        return process

    ips = ["127.0.0.2", "127.0.0.3"]
    fars = {ip: far(ip) for ip in ips}
    name(ips)
    near = [httptp, "--in", "127.0.0.1:8080", "--expvar-addr", ""]
    if by_name:
        near = ["unshare", "--mount", "sh", "-c", 'mount --bind hosts /etc/hosts && exec "$@"', "sh", *near,
                "--out", "fars:8043", "--out-resolve-interval", "500ms"]
    else:
        near += ["--out", ",".join(f"{ip}:8043" for ip in ips)]
    near = subprocess.Popen(near, **quiet)
    callers = [Caller() for _ in range(8)]
    try:
        wait_for(lambda: listens(8080), near)
        for caller in callers:
            caller.start()
        # Where nothing waits for a name, several times in the time that one takes there.
        for ip in ips * (1 if by_name else 4):
            time.sleep(1)
            name([other for other in ips if other != ip])
            fars[ip].send_signal(signal.SIGTERM)
            fars[ip].wait(20)
            fars[ip] = far(ip)
            name(ips)
        time.sleep(2)
    finally:
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join(30)
        end([near, *fars.values()])
    sent, wrong = sum(caller.sent for caller in callers), [one for caller in callers for one in caller.wrong]
    print(f"rolling restart {'behind a name' if by_name else 'in a fixed list'}: {sent} POSTs, {len(wrong)} lost")
    return sent, wrong


def fetch_ready(ip):
    try:
        return fetch(f"http://{ip}:8040/readyz")[0] == 200
    except OSError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--httptp", type=pathlib.Path, default=ROOT / "target/release/httptp")
    httptp = parser.parse_args().httptp.resolve()
    bench = Bench()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        os.chmod(directory, 0o755)
        make_certificates(directory)
        servers = "\n".join(SERVER % (port, port) for port in ORIGINS)
        (directory / "nginx.conf").write_text(NGINX % {"dir": directory, "servers": servers})
        origin = subprocess.Popen(["nginx", "-c", str(directory / "nginx.conf")], stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: all(map(listens, ORIGINS)), origin)
            check_use_cases(bench, httptp, directory)
            check_units(bench, httptp, directory)
            check_manifests(bench, httptp)
            for how, by_name in ("behind a name", True), ("in a fixed list", False):
                sent, wrong = rolling_restart(httptp, directory, by_name)
                what = f"a rolling restart {how} loses nothing"
                bench.check(what, sent > 100 and not wrong, f"{len(wrong)} of {sent}: {wrong[:3]}")
        finally:
            end([origin])
    print(f"{bench.passed} passed, {bench.failed} failed")
    sys.exit(bench.failed > 0)


main()
