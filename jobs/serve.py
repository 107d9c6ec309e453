"""captionmill serve [--port 8765] [--tpm N] [--rpm N] [--latency S] [--fault NAME=SHARE ...]

Run the built-in endpoint: the chat protocol over HTTP, with limits, latency and faults, to rehearse a run. It
measures images; it is not a vision model. Ctrl-C stops it.

  captionmill serve --port 8765 --tpm 300000 --latency 1 &
  OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any captionmill caption photos/ --model gpt-4o
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from captionmill.builtin import FAULTS
from captionmill.nouns.errors import UsageError

from .parser import Parser

if TYPE_CHECKING:
    from captionmill.builtin.server import EndpointSettings
    from captionmill.builtin.structured import FormSupport


def main(argv: list[str]) -> int:
    """Serve until interrupted. Raises UsageError for a wrong setting, or an address that is in use."""
    arguments = _parser().parse(argv)
    settings = _settings(arguments)
    import asyncio

    asyncio.run(_serve(settings, arguments.host, arguments.port))
    return 0


def _parser() -> Parser:
    parser = Parser("captionmill serve", __doc__)
    parser.rare(parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]"))
    parser.add_argument("--port", type=int, default=8765, help="port; 0 takes a free one [8765]")
    parser.add_argument("--tpm", type=int, help="tokens per minute [no limit]")
    parser.add_argument("--rpm", type=int, help="requests per minute [no limit]")
    parser.add_argument("--empty", action="store_true", help="start with empty quotas instead of full ones")
    parser.add_argument(
        "--silent", action="store_true", help="send no x-ratelimit headers: only 429s show the limits"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per answer, +-30 %% [0]")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=SHARE",
        help=f"share (0 to 1) of requests with this fault: {', '.join(FAULTS)}; may be repeated",
    )
    parser.add_argument(
        "--model", action="append", default=[], help="a model that it knows; may be repeated [any model]"
    )
    _add_form_flags(parser)
    parser.add_argument(
        "--key-env", metavar="NAME", help="environment variable with the only accepted key [any key]"
    )
    parser.rare(
        parser.add_argument("--seed", type=int, default=0, help="random seed of latency and faults [0]")
    )
    parser.rare(
        parser.add_argument("--ledger", action="store_true", help="count answers per request, for /stats")
    )
    return parser


def _add_form_flags(parser: Parser) -> None:
    parser.rare(
        parser.add_argument(
            "--structured-support",
            metavar="FORM,...",
            default="schema,tool,json",
            help="forms of an answer that it takes, the others are refused: schema, tool, json, or none [schema,tool,json]",
        )
    )
    parser.rare(
        parser.add_argument(
            "--ignores",
            action="append",
            default=[],
            metavar="PARAMETER",
            help="drop this parameter without a word, as relays do (response_format, tools, n); may be repeated",
        )
    )
    parser.rare(
        parser.add_argument(
            "--label-noise",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="share (0 to 1) of images that get a wrong class on purpose [0]",
        )
    )


def _settings(arguments: Namespace) -> EndpointSettings:
    key = os.environ.get(arguments.key_env) if arguments.key_env else None
    if arguments.key_env and not key:
        raise UsageError(f"--key-env: the variable {arguments.key_env} is not set")
    faults = dict(_fault(text) for text in arguments.fault)
    from captionmill.builtin.server import EndpointSettings

    forms = _forms(arguments)
    return EndpointSettings(
        key=key,
        tokens_per_minute=arguments.tpm,
        requests_per_minute=arguments.rpm,
        latency_seconds=arguments.latency,
        models=tuple(arguments.model),
        faults=faults,
        seed=arguments.seed,
        keeps_ledger=arguments.ledger,
        starts_empty=arguments.empty,
        says_limits=not arguments.silent,
        forms=forms,
    )


def _forms(arguments: Namespace) -> FormSupport:
    from captionmill.builtin.structured import FORMS, FormSupport

    names = [name.strip() for name in arguments.structured_support.split(",")]
    if unknown := sorted({*names} - {*FORMS, "none"}):
        raise UsageError(f"--structured-support: {', '.join(unknown)}: {', '.join(FORMS)} or none is needed")
    if not 0 <= arguments.label_noise <= 1:
        raise UsageError(f"--label-noise {arguments.label_noise}: a share from 0 to 1 is needed")
    forms = tuple(name for name in names if name != "none")
    return FormSupport(forms, tuple(arguments.ignores), arguments.label_noise, arguments.seed)


def _fault(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if name not in FAULTS or not 0 <= value <= 1:
        raise UsageError(
            f"--fault {text!r}: NAME=SHARE is needed, with a share from 0 to 1 and one of the names {', '.join(FAULTS)}"
        )
    return name, value


async def _serve(settings: EndpointSettings, host: str, port: int) -> None:
    import asyncio
    import signal

    from captionmill.builtin.server import BuiltinEndpoint, start

    try:
        runner, bound_port = await start(BuiltinEndpoint(settings), host, port)
    except OSError as error:
        raise UsageError(f"{host}:{port}: cannot listen ({error.strerror})") from error
    print(f"built-in endpoint: OPENAI_BASE_URL=http://{host}:{bound_port}/v1", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("serve", sys.argv[1:]))
