"""Claims about tables in object stores: read over HTTP by their URL, with credentials from the environment only.

The store is a server in this process that speaks S3's requests for listing and reading; the same commands were run against moto's.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.cli.main import main
from rl_transformer.trajectories.open import open_trajectories, read_trajectories
from tests.toys import telling_data
from tests.trajectories.table_files import write_csv, write_parquet

KEY, SECRET = "AKIDOFTHETEST", "secret-of-the-test"


class Bucket(BaseHTTPRequestHandler):
    """Answers for one bucket; without the right key it refuses."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.server.seen.append((self.command, key))
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        elif bucket != "logs":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif not key and "list-type" in query:
            self.list(query)
        elif not key:
            self.answer(200)
        elif key not in self.server.objects:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.read(self.server.objects[key])

    def read(self, content):
        common = {"Last_Modified": "Wed, 25 Nov 2026 10:00:00 GMT", "ETag": '"1"', "Accept_Ranges": "bytes"}
        if self.command == "HEAD":
            self.answer(200, Content_Length=str(len(content)), **common)
            return
        begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(begin) : int(end or len(content)) + 1]
        span = f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}"
        self.answer(206, part, Content_Range=span, **common)

    def list(self, query):
        keys = sorted(key for key in self.server.objects if key.startswith(query.get("prefix", "")))
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-25T10:00:00.000Z</LastModified><ETag>1</ETag>"
            f"<Size>{len(self.server.objects[key])}</Size></Contents>"
            for key in keys
        )
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        counts = f"<KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
        body = f"<ListBucketResult {space}><Name>logs</Name>{counts}{items}</ListBucketResult>"
        self.answer(200, body.encode(), Content_Type="application/xml")


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A server with two Parquet files and a CSV file, and the fingerprint of what is in them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = telling_data()
    local = write_parquet(tmp_path / "rows", data)
    write_csv(tmp_path / "rows.csv", data)
    server.objects = {
        "2026/part 1.parquet": (tmp_path / "rows/a.parquet").read_bytes(),
        "2026/part 2.parquet": (tmp_path / "rows/b.parquet").read_bytes(),
        "2026/_SUCCESS": b"",
        "text/rows.csv": (tmp_path / "rows.csv").read_bytes().replace(b",", b";"),
        "broken.parquet": b"PAR1 and no more",
    }
    server.fingerprint = read_trajectories(local).fingerprint
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["2026", "2026/", "*/part*.parquet", "**/part [0-9].parquet"])
def test_a_folder_and_a_glob_have_the_fingerprint_of_the_files(path, store):
    data = read_trajectories(f"parquet:s3://logs/{path}")
    assert data.fingerprint == store.fingerprint
    assert {("GET", f"2026/part {number}.parquet") for number in (1, 2)} <= set(store.seen)


def test_csv_with_semicolons_becomes_a_store_that_knows_no_credentials(store, tmp_path):
    assert main(["convert", "csv:s3://logs/text/*.csv", "--output", str(tmp_path / "store")]) == 0
    assert open_trajectories(f"rlt:{tmp_path / 'store'}").fingerprint == store.fingerprint
    written = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not [content for content in written if KEY.encode() in content or SECRET.encode() in content]


def test_a_file_is_read_by_its_name(store):
    assert read_trajectories("parquet:s3://logs/2026/part 1.parquet").num_steps == 5


def refusal(path, match, kind="parquet"):
    with pytest.raises(RLTransformerError, match=match) as caught:
        read_trajectories(f"{kind}:s3://{path}")
    return caught.value


def test_what_cannot_be_read_is_named_with_its_bucket_and_the_cure(store, monkeypatch):
    assert refusal("logs/2025/*.parquet", "no such file in the bucket 'logs'").where == "s3://logs/2025/*.parquet"
    refusal("logs/broken.parquet", "[Pp]arquet")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SOMEBODYELSE")
    denied = refusal("logs/2026", r"the bucket 'logs' cannot be read: .*ACCESS_DENIED")
    assert "AWS_ACCESS_KEY_ID" in denied.fix
    assert "AWS_ENDPOINT_URL" in denied.fix
    assert SECRET not in str(denied)


def test_credentials_in_a_url_are_refused_and_not_repeated(store):
    error = refusal(f"{KEY}:{SECRET}@logs/2026", "credentials in it, which would be kept")
    assert SECRET not in str(error)
    assert store.seen == []


@pytest.mark.parametrize(("kind", "path"), [("npz", "logs/a.npz"), ("hf", "logs/a"), ("lerobot", "logs/a")])
def test_formats_that_are_read_from_this_machine_say_so(kind, path):
    assert "copy it" in refusal(path, "read from this machine only", kind).fix
