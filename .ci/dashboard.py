#!/usr/bin/env python3
"""The page with live figures, looked at in a real browser while requests come.

load -> near httptp (whose page it is) -> links -> two far httptp -> an origin; and one upstream that is not there.

Chromium loads the page, and what it has drawn is checked: live figures, a link that makes traffic smaller, the state of
each upstream. With --screenshots DIR, pictures of it in light and dark are left there.

usage: dashboard.py --httptp PATH [--screenshots DIR] [--seconds N]
"""
import argparse, base64, contextlib, html.parser, http.client, http.server, json, os, pathlib, random, re, shutil
import subprocess, sys, tempfile, threading, time

from common import free_port, listens, wait_for


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"id": random.randrange(1 << 32), "bid": [{"price": random.random(), "adm": "<a/>" * 20}]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


def load(port, stop):
    rng = random.Random(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.is_set():
        device = {"ua": "Mozilla/5.0 (X11; Linux x86_64)", "ip": f"198.51.100.{rng.randrange(256)}", "language": "en"}
        bid = {"id": f"{rng.randrange(1 << 64):016x}", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}],
               "device": device, "site": {"domain": f"site{rng.randrange(50)}.example", "cat": ["IAB1", "IAB2"]}}
        connection.request("POST", "/bid", json.dumps(bid), {"Content-Type": "application/json"})
        connection.getresponse().read()
        stop.wait(rng.random() * 0.01)


class Page(html.parser.HTMLParser):
    """The text of each element that has an id, and the cells of the table of upstreams."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.rows, self.open = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("input", "meta", "link", "br"):
            return
        self.open.append((tag, dict(attrs).get("id")))
        if tag == "tr" and any(i == "upstreams" for _, i in self.open):
            self.rows.append([])
        if tag == "td" and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.ids[name] = self.ids.get(name, "") + data
        if any(tag == "td" for tag, _ in self.open) and self.rows:
            self.rows[-1][-1] += data


class Browser:
    """Chromium, driven by its DevTools protocol over a pair of pipes."""

    def __init__(self, path, profile):
        (there_read, self.there), (self.back, back_write) = os.pipe(), os.pipe()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                     "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # It reads from file descriptor 3 and writes to 4.
        shell = f'exec "$0" "$@" 3<&{there_read} 4>&{back_write}'
        self.process = subprocess.Popen(["bash", "-c", shell, path, *arguments], pass_fds=(there_read, back_write),
                                        stderr=subprocess.DEVNULL)
        os.close(there_read), os.close(back_write)
        self.number, self.session, self.unread = 0, None, b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Emulation.setDeviceMetricsOverride", width=1180, height=860, deviceScaleFactor=1, mobile=False)

    def ask(self, method, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.there, json.dumps(request).encode() + b"\0")
        while True:
            while b"\0" not in self.unread:
                part = os.read(self.back, 1 << 20)
                if not part:
                    sys.exit("the browser has gone")
                self.unread += part
            answer, self.unread = self.unread.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def text(self):
        script = "document.documentElement.outerHTML"
        return self.ask("Runtime.evaluate", expression=script)["result"]["value"]

    def picture(self, path, scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        print(path)

    def end(self):
        self.process.terminate()
        self.process.wait()


def check(page, gone):
    figure = lambda name: float(re.sub(r"[^0-9.]", "", page.ids.get(name, "")) or "nan")
    states = {row[0]: row[1] for row in page.rows}
    shown = {name: page.ids.get(name) for name in ("live", "what", "rate", "p50", "p99-under", "ratio", "saved", "money")}
    print(json.dumps({"shown": shown, "upstreams": states}, indent=2, ensure_ascii=False))
    assert page.ids["live"] == "live", "the page has no live figures"
    assert figure("rate") > 1, "requests a second"
    assert figure("p50") > 0 and "p99" in page.ids["p99-under"], "latency"
    assert figure("ratio") > 1.5, "how many times smaller"
    assert figure("saved") > 0 and "$" in page.ids["money"], "what is saved"
    assert len(states) == 3, "the state of each upstream"
    assert list(states.values()).count("up") == 2 and states[gone] in ("ejected", "up"), "the state of each upstream"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--httptp", required=True)
    parser.add_argument("--screenshots", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=8, help="how long the page is open before it is looked at")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        sys.exit("chromium is missing: apt-get install chromium")
    with contextlib.ExitStack() as stack:
        origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        origin.daemon_threads = True
        threading.Thread(target=origin.serve_forever, daemon=True).start()

        def httptp(port, *flags):
            process = subprocess.Popen([args.httptp, f"--in=127.0.0.1:{port}", *flags], stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_for(lambda: listens(port), process)

        far, near, figures, gone = [free_port(), free_port()], free_port(), free_port(), free_port()
        for port in far:
            httptp(port, "--in-type=teleport", "--out-type=http", f"--out=127.0.0.1:{origin.server_port}",
                   "--expvar-addr=")
        outs = ",".join(f"127.0.0.1:{port}" for port in [*far, gone])
        httptp(near, f"--out={outs}", "--out-delay=2ms", f"--expvar-addr=127.0.0.1:{figures}")
        stop = threading.Event()
        callers = [threading.Thread(target=load, args=(near, stop), daemon=True) for _ in range(16)]
        for caller in callers:
            caller.start()
            stack.callback(caller.join, 15)
        stack.callback(stop.set)
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        browser = Browser(browser, profile)
        stack.callback(browser.end)
        browser.ask("Page.navigate", url=f"http://127.0.0.1:{figures}/")
        time.sleep(args.seconds)
        check(Page(browser.text()), f"127.0.0.1:{gone}")
        if args.screenshots:
            args.screenshots.mkdir(parents=True, exist_ok=True)
            for scheme in ("light", "dark"):
                browser.picture(args.screenshots / f"dashboard-{scheme}.png", scheme)
    print("the page shows live figures in a browser")


if __name__ == "__main__":
    main()
