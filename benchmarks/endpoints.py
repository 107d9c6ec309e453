"""Whom the clients talk to: the built-in endpoint in a process of its own, or nginx with a constant answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# nginx reads the whole body before it answers (proxy buffering), as an endpoint does
NGINX = """
{user}daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {dir}/pid; error_log {dir}/error.log warn;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 16m;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  keepalive_timeout 300s; keepalive_requests 10000000; tcp_nodelay on;
  upstream inner {{ server unix:{dir}/inner.sock; keepalive 512; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=8192;
    {certificate}
    location / {{
      proxy_pass http://inner; proxy_http_version 1.1; proxy_method GET; proxy_set_header Connection "";
      proxy_set_header Content-Length ""; proxy_set_header Content-Type "";
      proxy_pass_request_body off; proxy_pass_request_headers off;
    }}
  }}
  server {{
    listen unix:{dir}/inner.sock;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A wide quiet view with soft light over low hills."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 440, "completion_tokens": 44, "total_tokens": 484},
    "system_fingerprint": "fp_1",
}


def has_nginx() -> bool:
    return shutil.which("nginx") is not None


def has_openssl() -> bool:
    return shutil.which("openssl") is not None


@contextlib.contextmanager
def nginx(folder: Path, *, with_tls: bool = False) -> Iterator[str]:
    """Yields its base URL. with_tls: the certificate lies in folder/cert.pem."""
    folder.mkdir(parents=True, exist_ok=True)
    port, certificate = _free_port(), ""
    if with_tls:
        _make_certificate(folder)
        certificate = f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"
    config = NGINX.format(
        dir=folder,
        port=port,
        ssl="ssl" if with_tls else "",
        certificate=certificate,
        user="user root; " if os.geteuid() == 0 else "",  # its workers must reach the socket in our folder
        answer=json.dumps(ANSWER),
    )
    (folder / "nginx.conf").write_text(config)
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    with _running(command, port):
        yield f"{'https' if with_tls else 'http'}://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def builtin(*flags: str) -> Iterator[str]:
    """`captionmill serve` with these flags. Yields its base URL."""
    port = _free_port()
    command = [sys.executable, "-m", "captionmill", "serve", "--port", str(port), *flags]
    with _running(command, port):
        yield f"http://127.0.0.1:{port}/v1"


def stats(base_url: str) -> dict[str, Any]:
    """What the built-in endpoint counted."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats") as answer:  # noqa: S310  the loopback
        return dict(json.load(answer))


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for(port, server)
        yield
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None:
            assert server.stderr is not None  # noqa: S101  a pipe was asked for
            raise SystemExit(f"the endpoint ended: {server.stderr.read().decode()}")
        time.sleep(0.05)
    raise SystemExit("the endpoint does not answer")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
