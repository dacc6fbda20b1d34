#!/usr/bin/env python3
"""HTTP through pairs of proxies over a link of two network namespaces: what it costs and what crosses the link.

    wrk -> near proxy | link (veth) | far proxy -> nginx

One command, as root, on a machine with iproute2, ethtool, wrk and nginx:

    cargo build --release && python3 benches/link.py --json results.jsonl

Measured: requests a second and latency as wrk sees them with --conns connections, and the latency again at --paced requests
a second; bytes and packets on the link both ways, TCP/IP headers included; CPU and peak memory of each proxy. The runs take
turns, --rounds times; the table has the medians, the file all rounds. With --profile there is another table: in what the
proxies spend their time.

A pair of other proxies: --pair 'NAME=NEAR COMMAND::FAR COMMAND', in which {near}, {far} and {origin} stand for the addresses:
the near proxy listens on {near} and sends to {far}, the far one listens on {far} and sends to {origin}.
"""
import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ADDRS = {"near": "10.99.0.1:8001", "far": "10.99.0.2:8002", "origin": "127.0.0.1:8003"}
STRAIGHT = "10.99.0.2:8003"

# An answer of an ad exchange's bidder: a part that repeats and parts that never do.
NGINX = """
worker_processes 1; daemon off; pid %(dir)s/nginx.pid; error_log %(dir)s/nginx.log;
events { worker_connections 20000; }
http {
    access_log off; keepalive_requests 1000000000; client_body_temp_path %(dir)s/body; client_max_body_size 64m;
    server {
        listen 8003 backlog=8192; default_type application/json;
        location / { return 200 '{"id":"$request_id","seatbid":[{"bid":[{"id":"1","impid":"102","price":$msec,"adid":"$connection","nurl":"http://adserver.example/win?imp=102&r=$request_id","adm":"<a href=\\\\"http://adserver.example/click?ad=12345\\\\"><img src=\\\\"http://cdn.example/banner?ad=$connection_requests\\\\"></a>","adomain":["advertiser.example"],"iurl":"http://adserver.example/preview?crid=creative111","cid":"campaign111","crid":"creative111","attr":[1,2,3,4,5,6,7,12]}],"seat":"512"}],"cur":"USD"}'; }
    }
}
"""

WRK = """
local requests, at = {}, %(seed)d
function init(args)
    for body in io.lines("%(bodies)s") do
        requests[#requests + 1] = wrk.format("POST", "/bid?src=partner", {["Host"] = "rtb.example.com",
            ["Content-Type"] = "application/json", ["X-Openrtb-Version"] = "2.5", ["User-Agent"] = "bidder/1.0",
            ["Accept-Encoding"] = "identity"}, body)
    end
end
function request()
    at = at %% #requests + 1
    return requests[at]
end
"""


def run(command, check=True):
    done = subprocess.run(shlex.split(command), capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Link:
    """Two namespaces and what is between them."""

    def __init__(self, rate):
        self.near, self.far = f"tpn{os.getpid()}", f"tpf{os.getpid()}"
        self.rate = rate

    def __enter__(self):
        try:
            for namespace in (self.near, self.far):
                run(f"ip netns add {namespace}")
            run(f"ip link add near0 netns {self.near} type veth peer name far0 netns {self.far}")
            for namespace, device, addr in ((self.near, "near0", "10.99.0.1/24"), (self.far, "far0", "10.99.0.2/24")):
                run(f"ip -n {namespace} addr add {addr} dev {device}")
                run(f"ip -n {namespace} link set {device} up")
                run(f"ip -n {namespace} link set lo up")
                # Or what counts as one packet is many.
                run(f"ip netns exec {namespace} ethtool -K {device} tso off gso off gro off")
                if self.rate:
                    run(f"ip netns exec {namespace} tc qdisc add dev {device} root tbf rate {self.rate} burst 128kb latency 100ms")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for namespace in (self.near, self.far):
            run(f"ip netns del {namespace}", check=False)

    def start(self, namespace, command, log):
        command = ["ip", "netns", "exec", namespace] + shlex.split(command)
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def counters(self):
        stats = json.loads(run(f"ip -n {self.near} -s -j link show near0"))[0]["stats64"]
        return [stats[way][what] for way in ("tx", "rx") for what in ("bytes", "packets")]

    def wait_for(self, namespace, addr, processes):
        host, port = addr.split(":")
        probe = f"exec 3<>/dev/tcp/{host}/{port}"
        for _ in range(100):
            if any(process.poll() is not None for process in processes):
                return False
            done = subprocess.run(["ip", "netns", "exec", namespace, "bash", "-c", probe], capture_output=True)
            if done.returncode == 0:
                return True
            time.sleep(0.1)
        return False


def tree(pid):
    """A process and those that it has started."""
    pids = [pid]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        if stat(int(entry), 1) == pid:
            pids.append(int(entry))
    return pids


def stat(pid, field):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[field])
    except (OSError, IndexError):
        return 0


def cpu(process):
    """Seconds: in all, and those in the kernel."""
    pids, second = tree(process.pid), os.sysconf("SC_CLK_TCK")
    system = sum(stat(pid, 12) for pid in pids)
    return (sum(stat(pid, 11) for pid in pids) + system) / second, system / second


def peak_mb(process):
    total = 0.0
    for pid in tree(process.pid):
        try:
            with open(f"/proc/{pid}/status") as file:
                total += int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024
        except (OSError, AttributeError):
            pass
    return total


def stop(processes):
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def load(link, addr, conns, seconds, script):
    command = f"ip netns exec {link.near} wrk -t1 -c{conns} -d{seconds} --latency -s {script} http://{addr}/"
    text = run(command, check=False)

    def millis(name):
        found = re.search(rf"^\s+{name}%\s+([\d.]+)(us|ms|s)", text, re.M)
        return float(found.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[found.group(2)] if found else None

    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return {
        "requests": int(requests.group(1)) if requests else 0,
        "rate": float(rate.group(1)) if rate else 0.0,
        "p50_ms": millis(50),
        "p99_ms": millis(99),
        "errors": "; ".join(re.findall(r"Socket errors.*|Non-2xx.*", text)),
    }


def measure(link, name, commands, args, scripts, log):
    processes, addr = [], STRAIGHT
    try:
        if commands:
            near, far = (command.format(**ADDRS) for command in commands)
            addr = ADDRS["near"]
            processes.append(link.start(link.far, far, log))
            started = link.wait_for(link.far, ADDRS["far"], processes)
            processes.append(link.start(link.near, near, log))
            if not started or not link.wait_for(link.near, ADDRS["near"], processes):
                return {"name": name, "errors": "a proxy did not start; see the log"}
        load(link, addr, args.conns, 1, scripts["full"])
        profile = Profile(processes, args.directory) if args.profile and processes else None
        before, cpus = link.counters(), [cpu(process) for process in processes]
        result = {"name": name, **load(link, addr, args.conns, args.seconds, scripts["full"])}
        counted = [after - begun for begun, after in zip(before, link.counters())]
        used = [[now - then for then, now in zip(begun, cpu(process))] for begun, process in zip(cpus, processes)]
        n = max(result["requests"], 1)
        result.update(bytes_up=counted[0] / n, bytes_down=counted[2] / n, packets_up=counted[1] / n, packets_down=counted[3] / n)
        if processes:
            result.update(far_cpu_us=used[0][0] / n * 1e6, near_cpu_us=used[1][0] / n * 1e6)
            result.update(kernel_cpu_us=(used[0][1] + used[1][1]) / n * 1e6)
            result.update(far_mb=peak_mb(processes[0]), near_mb=peak_mb(processes[1]))
        if profile:
            us = (result["far_cpu_us"], result["near_cpu_us"])
            for shares, us in zip(profile.shares(), us):
                for part, share in shares.items():
                    result[f"part_{part}"] = result.get(f"part_{part}", 0) + share * us
        if args.paced:
            paced = load(link, addr, args.paced_conns, max(args.seconds // 2, 2), scripts["paced"])
            result.update(paced_rate=paced["rate"], paced_p50_ms=paced["p50_ms"], paced_p99_ms=paced["p99_ms"])
        return result
    finally:
        stop(processes[::-1])


# What a function is part of, by the first of these that fits its name.
PARTS = [
    ("compression", r"zlib_rs|flate2|ZSTD|HUF_|FSE_|^snap::|compress::snappy"),
    ("HTTP", r"hyper|httparse|http::|http_body"),
    ("core", r"httpteleport::proto"),
    ("drivers, proxy", r"httpteleport::(driver|proxy)|httptp"),
    ("moving, memory", r"mem(move|cpy|set|cmp)|alloc|free|unlink_chunk"),
    ("tasks", r"async_|event_listener|concurrent_queue|futures|core::pin|core::future|smol|catch_unwind|core::task"),
]


class Profile:
    """Where processes spend their time, by perf, while it is open."""

    def __init__(self, processes, directory):
        self.files = [os.path.join(directory, f"{process.pid}.perf") for process in processes]
        self.perfs = [
            # What `ip netns exec` has started is the same process.
            subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", file, "-p", str(process.pid)],
                             stderr=subprocess.DEVNULL)
            for file, process in zip(self.files, processes)
        ]

    def shares(self):
        """Of each process, the share of each part."""
        for perf in self.perfs:
            perf.send_signal(signal.SIGINT)
            perf.wait()
        return [self.share(file) for file in self.files]

    @staticmethod
    def share(file):
        report = ["perf", "report", "-i", file, "--no-children", "--stdio", "--sort", "dso,sym", "-F", "overhead,dso,sym"]
        lines = subprocess.run(report, capture_output=True, text=True).stdout.splitlines()
        shares = {part: 0.0 for part in ["kernel"] + [part for part, _ in PARTS] + ["the rest"]}
        for line in lines:
            found = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[.\]\s+(.*)", line)
            if found:
                overhead, dso, symbol = found.groups()
                fits = [part for part, pattern in PARTS if re.search(pattern, symbol)]
                part = "kernel" if dso.startswith("[kernel") else fits[0] if fits else "the rest"
                shares[part] += float(overhead) / 100
        return shares


COLUMNS = [
    ("name", "what", "{}"), ("rate", "req/s", "{:.0f}"), ("p50_ms", "p50 ms", "{:.2f}"), ("p99_ms", "p99 ms", "{:.2f}"),
    ("paced_p50_ms", "paced p50", "{:.2f}"), ("paced_p99_ms", "paced p99", "{:.2f}"),
    ("bytes_up", "B up", "{:.1f}"), ("bytes_down", "B down", "{:.1f}"), ("packets_up", "pkt up", "{:.3f}"),
    ("packets_down", "pkt down", "{:.3f}"), ("near_cpu_us", "near us", "{:.1f}"), ("far_cpu_us", "far us", "{:.1f}"),
    ("kernel_cpu_us", "kernel us", "{:.1f}"),
    ("near_mb", "near MB", "{:.1f}"), ("far_mb", "far MB", "{:.1f}"), ("errors", "errors", "{}"),
]


def median(results):
    merged = dict(results[0])
    for key in merged:
        values = [result[key] for result in results if isinstance(result.get(key), (int, float))]
        if values:
            merged[key] = statistics.median(values)
    merged["errors"] = "; ".join(sorted({result["errors"] for result in results if result.get("errors")}))
    return merged


def table(results, columns):
    print("\n| " + " | ".join(title for _, title, _ in columns) + " |")
    print("|" + "---|" * len(columns))
    for rounds in results.values():
        merged = median(rounds)
        cells = ("" if merged.get(key) is None else form.format(merged[key]) for key, _, form in columns)
        print("| " + " | ".join(cells) + " |")


def provenance():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True)
    return {
        "machine": f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit.stdout.strip() or "unknown",
    }


def own_pairs(args):
    """This project's proxies, in each compression, without a delay and with one."""
    help_text = subprocess.run([args.httptp, "--help"], capture_output=True, text=True).stdout
    pairs = []
    for compress in ("flate", "none", "snappy", "zstd"):
        if compress == "zstd" and "zstd" not in help_text:
            continue
        for delay in [""] + [delay for delay in args.delays.split(",") if delay]:
            near = f"{args.httptp} --in-type http --in {{near}} --out-type teleport --out {{far}} --out-compress {compress}"
            far = f"{args.httptp} --in-type teleport --in {{far}} --out-type http --out {{origin}} --in-compress {compress}"
            if delay:
                near, far = f"{near} --out-delay {delay}", f"{far} --in-delay {delay}"
            pairs.append((f"httptp {compress}{' ' + delay if delay else ''}", (near, far)))
    return pairs


def bodies(args, directory):
    """The file of the bodies, one a line."""
    path = os.path.join(directory, "bodies.jsonl")
    if not args.corpus:
        dump = ["cargo", "bench", "--quiet", "-p", "httpteleport", "--bench", "compression", "--", "--dump", path, "--messages", "6000"]
        subprocess.run(dump, cwd=ROOT, check=True)
    elif args.corpus.endswith(".xz"):
        with open(path, "wb") as file:
            subprocess.run(["xz", "-dc", args.corpus], stdout=file, check=True)
    else:
        shutil.copy(args.corpus, path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--httptp", default=os.path.join(ROOT, "target/release/httptp"), help="this project's program")
    parser.add_argument("--corpus", help="a file of bodies, one a line, may be .xz; default: made-up bid requests")
    parser.add_argument("--rate", help="of the link each way, such as 20mbit; default: no limit")
    parser.add_argument("--seconds", type=int, default=6, help="of each run (default 6)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--conns", type=int, default=64, help="connections of wrk (default 64)")
    parser.add_argument("--paced", type=int, default=1000, help="requests a second of the paced run; 0: none (default 1000)")
    parser.add_argument("--bursts", action="store_true", help="paced callers speak at the same moment, not by chance")
    parser.add_argument("--delays", default="2ms", help="batch delays of our pairs, beside none (default 2ms)")
    parser.add_argument("--only", help="run only what has this in its name")
    parser.add_argument("--pair", action="append", default=[], metavar="NAME=NEAR::FAR", help="another pair of proxies")
    parser.add_argument("--profile", action="store_true", help="also tell, by perf, in what both proxies spend their time; it takes some itself")
    parser.add_argument("--json", help="append all rounds to this file, one JSON object a line")
    args = parser.parse_args()
    needed = {"ip": "iproute2", "ethtool": "ethtool", "wrk": "wrk", "nginx": "nginx"} | ({"perf": "linux-perf"} if args.profile else {})
    for program, package in needed.items():
        if not shutil.which(program):
            sys.exit(f"{program} is needed; on Debian: apt-get install {package}")
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    if not os.path.exists(args.httptp):
        sys.exit(f"{args.httptp} is not there: cargo build --release")

    runs = [("straight", None)] + own_pairs(args)
    for pair in args.pair:
        name, _, commands = pair.partition("=")
        near, _, far = commands.partition("::")
        runs.append((name, (near, far)))
    runs = [one for one in runs if not args.only or args.only in one[0]]
    args.paced_conns = max(1, args.paced // 50)
    where = provenance()
    directory = tempfile.mkdtemp(prefix="teleport-link-")
    args.directory = directory
    corpus = bodies(args, directory)
    scripts = {}
    for name in ("full", "paced"):
        scripts[name] = os.path.join(directory, f"{name}.lua")
        with open(scripts[name], "w") as file:
            file.write(WRK % {"bodies": corpus, "seed": 0 if name == "full" else 500})
            if name == "paced":
                # So many milliseconds on average between two requests of a connection: with the same for all of them, all
                # speak at the same moment.
                mean = 1000 * args.paced_conns / max(args.paced, 1)
                least, most = (mean, mean) if args.bursts else (mean / 2, mean * 3 / 2)
                file.write(f"function delay() return math.random({round(least)}, {round(most)}) end\n")
    with open(os.path.join(directory, "nginx.conf"), "w") as file:
        file.write(NGINX % {"dir": directory})

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    setting = {"rate_limit": args.rate, "conns": args.conns, "corpus": os.path.basename(args.corpus or "made-up bid requests")}
    print(f"{where['machine']}; {where['date']}; commit {where['commit']}")
    print(f"{setting['corpus']}; {args.conns} connections; link {args.rate or 'unlimited'}; {args.rounds} rounds of {args.seconds} s")
    results = {}
    with open(os.path.join(directory, "log"), "w") as log, Link(args.rate) as link:
        origin = link.start(link.far, f"nginx -c {directory}/nginx.conf", log)
        try:
            if not link.wait_for(link.far, ADDRS["origin"], [origin]):
                sys.exit(f"nginx did not start: see {directory}")
            for number in range(args.rounds):
                for name, commands in runs:
                    result = measure(link, name, commands, args, scripts, log)
                    results.setdefault(name, []).append(result)
                    print(f"  round {number + 1}: {name}: {result.get('rate', 0):.0f} req/s {result.get('errors', '')}", file=sys.stderr)
                    if args.json:
                        with open(args.json, "a") as file:
                            file.write(json.dumps({**where, **setting, "round": number + 1, **result}) + "\n")
        finally:
            stop([origin])
    table(results, COLUMNS)
    if args.profile:
        print("\nus of CPU a request, near and far together, by what they are spent in:")
        parts = ["kernel"] + [part for part, _ in PARTS] + ["the rest"]
        table(results, COLUMNS[:1] + [(f"part_{part}", part, "{:.1f}") for part in parts])
    print(f"\nlogs: {directory}", file=sys.stderr)


main()
