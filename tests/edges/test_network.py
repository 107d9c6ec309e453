"""A network that fails, against the real command: names that are not found, certificates that are not trusted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from commands import MODEL, captionmill, command, draw_pictures, environment, results, wait_for_live
from lying_server import LyingServer, http
from scripted_chat import completion

HOST = "relay.test"
CLOSE = "Connection: close\r\n"  # so that each request needs the name anew


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


needs_names = pytest.mark.skipif(
    not (shutil.which("unshare") and can_mount()), reason="needs leave to mount an /etc/hosts of its own"
)


class Names:
    """What a process may find by name: an /etc/hosts that only it sees, and no name server that answers."""

    def __init__(self, folder: Path) -> None:
        self._hosts, self._resolver = folder / "hosts", folder / "resolv.conf"
        self._resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.lose()

    def lose(self) -> None:
        self._hosts.write_text("127.0.0.1 localhost\n")

    def find(self) -> None:
        self._hosts.write_text(f"127.0.0.1 localhost {HOST}\n")

    def inside(self, line: list[str]) -> list[str]:
        mounts = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
        return ["unshare", "-m", "sh", "-c", mounts, "sh", str(self._hosts), str(self._resolver), *line]


@needs_names
def test_a_name_that_is_not_found_at_the_start(tmp_path):
    """Said at once, with the system's words and the address; exit 3."""
    draw_pictures(tmp_path / "p", 4)
    line = Names(tmp_path).inside(command("caption", "p", *MODEL, "-o", "run"))
    done = subprocess.run(
        line,
        env=environment(f"http://{HOST}:9/v1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert f"stopped: {HOST}:9/v1/chat/completions: cannot connect (" in done.stderr
    assert "name resolution" in done.stderr or "not known" in done.stderr
    assert "check the network and the address" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # the name is kept for ten seconds after it was found
@needs_names
def test_a_name_that_is_lost_in_the_middle(tmp_path):
    """It is waited for: every row is answered, none fails, none is paid for twice."""
    draw_pictures(tmp_path / "p", 80)
    names = Names(tmp_path)
    names.find()
    slow = LyingServer(lambda body, n: time.sleep(0.2) or http(completion(), headers=CLOSE))  # its own thread
    with slow.open() as server:
        line = names.inside(command("caption", "p", *MODEL, "-o", "run", "--concurrency", 4))
        running = subprocess.Popen(
            line,
            env=environment(f"http://{HOST}:{server.port}/v1"),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_live(tmp_path / "run", lambda endpoint: endpoint["in_flight"] > 0)
        names.lose()
        wait_for_live(tmp_path / "run", lambda endpoint: endpoint["is_probing"])
        names.find()
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert "works again" in said
    assert len(results(tmp_path / "run")) == server.requests == 80
    assert len(pd.read_parquet(tmp_path / "run/failures.parquet")) == 0


# ------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, ssl.SSLContext]:
    """For 127.0.0.1, signed by itself: the file, and what a server does with it."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


@pytest.mark.slow
def test_a_certificate_that_is_not_trusted(tmp_path, certificate):
    """Exit 3 with what is wrong with it and what to do; with SSL_CERT_FILE it is trusted, for its own name only."""
    draw_pictures(tmp_path / "p", 3)
    cert, context = certificate

    def run(host: str, **more: str) -> subprocess.CompletedProcess[str]:
        url = f"https://{host}:{server.port}/v1"
        return captionmill("caption", "p", *MODEL, "-o", "run", base_url=url, cwd=tmp_path, **more)

    with LyingServer(lambda body, n: http(completion())).open(context) as server:
        unknown = run("127.0.0.1")
        other = run("localhost", SSL_CERT_FILE=str(cert))
        assert (unknown.returncode, other.returncode, server.requests) == (3, 3, 0)
        assert "the certificate is not trusted (self-signed certificate)" in unknown.stderr
        assert "SSL_CERT_FILE" in unknown.stderr
        assert "the certificate is not trusted (Hostname mismatch" in other.stderr
        assert run("127.0.0.1", SSL_CERT_FILE=str(cert)).returncode == 0
    assert len(results(tmp_path / "run")) == 3


@pytest.mark.slow
def test_no_tls_where_tls_was_expected(tmp_path):
    """https:// to a server that speaks none: exit 3, no traceback, the address to check."""
    draw_pictures(tmp_path / "p", 3)
    with LyingServer(lambda body, n: http(completion())).open() as server:
        done = captionmill(
            "caption", "p", *MODEL, "-o", "run", "--connect-timeout", 0.5,
            base_url=f"https://127.0.0.1:{server.port}/v1", cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "cannot connect" in done.stderr
    assert "Traceback" not in done.stderr
