"""Claims about the documentation site: it builds without a warning, and in a browser every internal link leads somewhere."""

import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Visits every page that is reachable by links in a frame of its own, four at a time, and reports to the server. The
# browser resolves addresses, so that the test follows links exactly as a reader would.
CRAWLER = """<!doctype html><link rel="icon" href="data:,"><script>
const queue = [new URL("/", location).href], pages = {}, files = {}, outside = new Set(), seen = new Set(queue);
const isPage = url => url.pathname.endsWith("/") || url.pathname.endsWith(".html");
async function visit(address) {
  const frame = document.createElement("iframe");
  frame.style = "width: 1200px; height: 800px";
  const loaded = new Promise(resolve => frame.onload = resolve);
  frame.src = address;
  document.body.append(frame);
  await loaded;
  const page = frame.contentDocument;
  const links = [...page.querySelectorAll("a[href]")].map(a => a.href);
  const parts = [...page.querySelectorAll("img[src], script[src], link[rel=stylesheet]")].map(e => e.src || e.href);
  await Promise.all([...page.images].map(image => { image.loading = "eager"; return image.decode().catch(() => 0); }));
  pages[address] = {
    title: page.title,
    words: page.body.innerText.split(/\\s+/).length,
    ids: [...page.querySelectorAll("[id]")].map(e => e.id),
    links: links.filter(link => new URL(link).origin === location.origin),
    broken_images: [...page.images].filter(image => !image.naturalWidth).map(image => image.src),
  };
  for (const link of links) {
    const url = new URL(link), whole = url.origin + url.pathname;
    if (url.origin !== location.origin || seen.has(whole)) continue;
    seen.add(whole);
    if (isPage(url)) queue.push(whole);
    else files[whole] = (await fetch(whole)).status;
  }
  parts.filter(part => new URL(part).origin !== location.origin).forEach(part => outside.add(part));
  frame.remove();
}
async function worker() {
  for (let idle = 0; idle < 200;) {
    const next = queue.shift();
    if (next) { idle = 0; await visit(next); } else { idle++; await new Promise(resolve => setTimeout(resolve, 10)); }
  }
}
window.onload = async () => {
  await Promise.all([worker(), worker(), worker(), worker()]);
  await fetch("/report", {method: "POST", body: JSON.stringify({pages, files, outside: [...outside]})});
};
</script><body></body>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site and the crawler, notes every request that failed, and takes the crawler's report."""

    def do_GET(self):
        if self.path != "/crawler":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(CRAWLER.encode())

    def do_POST(self):
        self.server.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.server.reported.set()

    def send_error(self, code, message=None, explain=None):
        self.server.failed.append((code, self.path))
        super().send_error(code, message, explain)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as by ``make docs``, and what the build printed."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(ROOT / "docs/build_site.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def crawled(site, tmp_path_factory):
    """What the browser met: the report of the crawler, and the requests that failed."""
    if BROWSER is None:
        assert not os.environ.get("CI"), "no Chromium: make test installs it"
        pytest.skip("no Chromium here")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site[0])))
    server.failed = []
    server.reported = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]
    address = f"http://127.0.0.1:{server.server_port}/crawler"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([BROWSER, *flags, address], start_new_session=True, **quiet)
    try:
        assert server.reported.wait(timeout=50), "the browser did not report in time"
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        server.shutdown()
        server.server_close()
    return server.report, server.failed


def test_the_site_builds_without_a_warning(site):
    folder, printed = site
    assert "No issues found" in printed
    assert (folder / "index.html").exists()


def test_every_page_of_docs_is_in_the_navigation():
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = set(re.findall(r"'([\w/.-]+\.md)'", str(project["nav"])))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_every_internal_link_leads_to_a_page_and_a_place_on_it(crawled):
    report, failed = crawled
    pages = report["pages"]
    assert len(pages) > 60
    assert not failed
    assert set(report["files"].values()) <= {200}
    assert not [address for address, page in pages.items() if page["words"] < 20 or "404" in page["title"]]
    missing = []
    for address, page in pages.items():
        for link in page["links"]:
            target, _, place = link.partition("#")
            if target in pages and place and place not in pages[target]["ids"]:
                missing.append((address, link))
    assert not missing


def test_every_picture_is_shown_and_nothing_is_loaded_from_elsewhere(crawled):
    report, _ = crawled
    assert not [image for page in report["pages"].values() for image in page["broken_images"]]
    assert not report["outside"]


def test_every_page_is_reached_from_the_front_page(site, crawled):
    folder, _ = site
    built = {"/" + path.parent.relative_to(folder).as_posix() for path in folder.rglob("index.html")}
    reached = {re.sub(r"^http://[^/]+", "", address).rstrip("/") for address in crawled[0]["pages"]}
    assert {path.rstrip("/").replace("/.", "") for path in built} <= reached


def test_the_reference_shows_the_public_surface(site):
    folder, _ = site
    api = "".join(path.read_text() for path in (folder / "reference/api").rglob("index.html"))
    import rl_transformer

    public = set(dir(rl_transformer)) - {"__version__", "DecisionTransformerGPT2Model"}
    modules = rl_transformer._MODULES
    assert not [name for name in public if f"{modules[name]}" not in api or name not in api]
    assert "The return to aim for, in the environment" in api  # docstrings, not only signatures
