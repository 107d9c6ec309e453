"""python -m benchmarks [SCENARIO ...] [--rows N] [--repeat N]

Measures captionmill beside a minimal client in the same run, on this machine, and prints a table. Nothing
leaves the loopback. Read the ratios: seconds differ from machine to machine and from hour to hour.

  overhead  an endpoint that answers at once (nginx where it is installed): what a row costs
  tls       the same with TLS and pictures of 400 KB (needs nginx and openssl)
  latency   answers after 1 s +- 30 %, 128 at once: wall-clock time against the minimal client's
  refusals  servers that refuse: what a run takes beside what the server allows
  limit     300,000 tokens a minute for two minutes and more: how much of it is used, how many 429s
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from . import refusals as refusing
from .endpoints import builtin, has_nginx, has_openssl, nginx, stats
from .measure import Cost, run_floor, run_ours

TPM = 300_000
COSTS = "| {:<26} | {:>7} | {:>8} | {:>11} | {:>9} | {:>8} |"
LIMITS = "| {:<40} | {:>11} | {:>8} | {:>8} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--rows", type=int, help="instead of each scenario's own number")
    parser.add_argument("--repeat", type=int, default=3, help="runs of overhead, tls and latency [3]")
    parser.add_argument(
        "--check", action="store_true", help="overhead: fail where CPU or memory became worse than stored"
    )
    arguments = parser.parse_args()
    if arguments.check and arguments.scenario != ["overhead"]:
        parser.error("--check is for the scenario overhead alone")
    with tempfile.TemporaryDirectory(prefix="captionmill-bench-") as name:
        for scenario in arguments.scenario or SCENARIOS:
            folder = Path(name) / scenario
            folder.mkdir()
            costs = SCENARIOS[scenario](folder, arguments.rows, arguments.repeat)
            print(flush=True)
            if arguments.check and costs is not None:
                check(*costs)


# ------------------------------------------------------------------------------- scenarios


def overhead(folder: Path, rows: int | None, repeat: int) -> tuple[Cost, Cost]:
    """Returns the medians of the minimal client and of captionmill."""
    rows = rows or (5000 if has_nginx() else 1000)
    manifest = draw(folder, rows, kilobytes=80)
    where = "nginx" if has_nginx() else "the built-in endpoint"
    with nginx(folder / "nginx") if has_nginx() else builtin() as url:
        return _print_costs(
            f"overhead: {rows:,} rows, 80 KB each, 64 at once, {where}", url, manifest, 64, repeat
        )


def tls(folder: Path, rows: int | None, repeat: int) -> None:
    if not (has_nginx() and has_openssl()):
        print("tls: left out, nginx or openssl is not installed")
        return
    rows = rows or 1000
    manifest = draw(folder, rows, kilobytes=400)
    with nginx(folder / "nginx", with_tls=True) as url:
        os.environ["SSL_CERT_FILE"] = str(folder / "nginx" / "cert.pem")
        _print_costs(f"tls: {rows:,} rows, 400 KB each, 64 at once, nginx", url, manifest, 64, repeat)
        del os.environ["SSL_CERT_FILE"]


def latency(folder: Path, rows: int | None, repeat: int) -> None:
    rows = rows or 2000
    manifest = draw(folder, rows, kilobytes=80)
    with builtin("--latency", "1") as url:
        title = f"latency: {rows:,} rows, 1 s +- 30 %, 128 at once, the built-in endpoint"
        _print_costs(title, url, manifest, 128, repeat)


def limit(folder: Path, rows: int | None, _repeat: int) -> None:
    """Not repeated: minutes at a limit are their own average."""
    rows = rows or 2500  # of about 360 tokens: the full bucket and two minutes of what flows in
    manifest = draw(folder, rows, kilobytes=80)
    print(f"**limit: {rows:,} rows, {TPM:,} tokens a minute, 1 s +- 30 %, the built-in endpoint**\n")
    print(LIMITS.format("", "utilisation", "429s", "seconds"))
    print(LIMITS.format("---", "---:", "---:", "---:"))
    serve = ("--tpm", str(TPM), "--latency", "1")
    tpm = ("--tpm", str(TPM))
    for title, server_flags, flags in (
        ("minimal client, 64 at once", (), None),
        ("captionmill --tpm 300000", (), tpm),
        ("... quota empty at the start", ("--empty",), tpm),
        ("captionmill, limit told by the server", (), ()),
        ("captionmill, limit unknown", ("--silent",), ()),
    ):
        with builtin(*serve, *server_flags) as url:
            cost = (
                run_floor(url, manifest, 64, folder)
                if flags is None
                else run_ours(url, manifest, folder, *flags)
            )
            _print_limit(title, stats(url), rows, cost)


def refusals(folder: Path, _rows: int | None, _repeat: int) -> None:
    """Not repeated."""
    manifests = {}
    for _, rows, *_ in refusing.RUNS:
        (folder / str(rows)).mkdir(exist_ok=True)
        manifests[rows] = draw(folder / str(rows), rows, kilobytes=20)
    refusing.run(folder, manifests)


def _print_limit(title: str, counts: dict[str, object], rows: int, cost: Cost) -> None:
    quotas, by_status = counts["quotas"], counts["by_status"]
    assert isinstance(quotas, dict) and isinstance(by_status, dict)  # noqa: S101  the built-in endpoint's own
    tokens = quotas["tokens"]
    refused = by_status.get("429", 0)
    assert by_status["200"] == rows, f"{by_status['200']} answers for {rows} rows"  # noqa: S101
    share = f"{100 * tokens['taken'] / tokens['available']:.1f} %"
    print(LIMITS.format(title, share, refused, f"{cost.wall:.0f}"), flush=True)


def _print_costs(title: str, url: str, manifest: Path, concurrency: int, repeat: int) -> tuple[Cost, Cost]:
    """Both clients by turns, so that a slow minute of the machine hits both; medians."""
    rows = len(manifest.read_text().splitlines())
    clients: dict[str, Callable[[], Cost]] = {
        "minimal client": lambda: run_floor(url, manifest, concurrency, manifest.parent),
        "captionmill": lambda: run_ours(url, manifest, manifest.parent, "--concurrency", str(concurrency)),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in clients}
    for _ in range(repeat):
        for name, run in clients.items():
            costs[name].append(run())
    print(f"**{title}**\n")
    print(COSTS.format("", "wall s", "rows/s", "CPU s/1,000", "memory MB", "lag ms"))
    print(COSTS.format("---", "---:", "---:", "---:", "---:", "---:"))
    medians = {name: _median(runs) for name, runs in costs.items()}
    for name, cost in medians.items():
        print(COSTS.format(name, *_figures(cost, rows)))
    floor, ours = medians["minimal client"], medians["captionmill"]
    print(COSTS.format("ratio", f"{ours.wall / floor.wall:.2f}", f"{floor.wall / ours.wall:.2f}",
                       f"{ours.cpu / floor.cpu:.2f}", f"{ours.memory / floor.memory:.2f}", ""))  # fmt: skip
    return floor, ours


def check(floor: Cost, ours: Cost) -> None:
    """Compare the ratios to the minimal client with overhead.json. Raises SystemExit where one is 10 % worse."""
    stored = json.loads(Path(__file__).with_name("overhead.json").read_text())
    measured = {"cpu": ours.cpu / floor.cpu, "memory": ours.memory / floor.memory}
    worse = [
        f"{name}: {ratio:.2f} times the minimal client, {stored[name]:.2f} are stored"
        for name, ratio in measured.items()
        if ratio > stored[name] * 1.1
    ]
    if worse:
        raise SystemExit("overhead became worse by more than 10 %\n" + "\n".join(worse))
    print("overhead: no worse than stored")


def _median(runs: list[Cost]) -> Cost:
    middle = statistics.median
    return Cost(
        middle(run.wall for run in runs),
        middle(run.cpu for run in runs),
        middle(run.memory for run in runs),
        max(run.lag for run in runs),
    )


def _figures(cost: Cost, rows: int) -> tuple[str, ...]:
    lag = str(cost.lag) if cost.lag >= 0 else ""
    per_thousand = cost.cpu * 1000 / rows
    return (f"{cost.wall:.1f}", f"{rows / cost.wall:,.0f}", f"{per_thousand:.2f}", f"{cost.memory:.0f}", lag)


def draw(folder: Path, rows: int, kilobytes: int) -> Path:
    """A manifest of so many rows over 20 grainy JPEGs of about that size. Returns its path."""
    chance = random.Random(kilobytes)
    side = round((kilobytes * 1000 / 0.45) ** 0.5)  # grain at quality 85 takes about 0.45 bytes a pixel
    for number in range(20):
        grain = Image.frombytes("L", (side // 2, side // 2), chance.randbytes((side // 2) ** 2))
        grain.resize((side, side)).convert("RGB").save(folder / f"{number}.jpg", quality=85)
    lines = (json.dumps({"id": f"r{n}", "image": str(folder / f"{n % 20}.jpg")}) for n in range(rows))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


SCENARIOS: dict[str, Callable[[Path, int | None, int], tuple[Cost, Cost] | None]] = {
    "overhead": overhead,
    "tls": tls,
    "latency": latency,
    "limit": limit,
    "refusals": refusals,
}

if __name__ == "__main__":
    main()
