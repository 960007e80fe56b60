"""The service under load, beside `encode` in one process, on loopback.

    python benchmarks/serve.py [--seconds 60] [--clients 64] [--rounds 2] [--soak 600] [--only load overload kill soak]

Load: 64 clients ask one after the other, an input each (pictures, sounds, texts by eight, and a mix of them); the rate
is compared with `encode` of the same inputs, in turns. Overload: requests come at five times the rate that was
reached, whether or not earlier ones were answered. Kill: the model's process is killed under load. Soak: memory of all
processes while the mix goes on. Every input is another one, and nothing is kept for those that come again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import soundfile

import onepeace
from onepeace.bench.measure import machine_facts
from onepeace.memory import keep_freed_memory
from retrieval.gallery import GALLERY, read_gallery

TEXTS = 8  # in a request
OFFLINE = 256  # inputs in a call of `encode`
KINDS = ("image", "audio", "text", "mix")


@dataclass
class Inputs:
    """Endless different inputs of the gallery's sizes."""

    pictures: list[PIL.Image.Image]
    sounds: list[tuple[np.ndarray, int]]
    captions: list[str]
    numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    def of_gallery(cls) -> Inputs:
        """Read them."""
        exhibits = list(read_gallery(GALLERY))
        pictures = [PIL.Image.open(GALLERY / e.file).convert("RGB") for e in exhibits if e.modality == "image"]
        sounds = [soundfile.read(GALLERY / e.file, dtype="float32") for e in exhibits if e.modality == "audio"]
        return cls(pictures, sounds, [e.caption for e in exhibits if e.caption])

    def next(self, kind: str) -> list[tuple[str, Any]]:
        """Return what one request holds: kind, and text or encoded bytes."""
        n = next(self.numbers)
        if kind == "mix":
            kind = KINDS[n % 3]
        if kind == "text":
            return [("text", f"{self.captions[(n + i) % len(self.captions)]}, the {n}th of {i}") for i in range(TEXTS)]
        out = io.BytesIO()
        if kind == "image":
            picture = self.pictures[n % len(self.pictures)].copy()
            picture.putpixel((n % picture.width, n // picture.width % picture.height), (n % 256, 0, 0))
            picture.save(out, "JPEG", quality=90)
        else:
            samples, rate = self.sounds[n % len(self.sounds)]
            samples = samples.copy()
            samples.reshape(-1)[n % samples.size] += 0.01
            soundfile.write(out, samples, rate, format="FLAC")
        return [(kind, out.getvalue())]


def request_of(inputs: list[tuple[str, Any]]) -> bytes:
    """Return the bytes of a request, ready to be sent, so that the clients take little of the processor."""
    entries = [{kind: v if kind == "text" else base64.b64encode(v).decode()} for kind, v in inputs]
    body = json.dumps({"input": entries, "encoding_format": "base64"}).encode()
    head = [
        "POST /v1/embeddings HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def ask(
    place: tuple[str, int], request: bytes, kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> int:
    """Send a request over a kept connection or a new one; return the status, 0 where the connection was lost."""
    try:
        while kept and kept[-1][0].at_eof():  # closed by the service while idle
            kept.pop()[1].close()
        reader, writer = kept.pop() if kept else await asyncio.open_connection(*place)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError):
        return 0
    kept.append((reader, writer))
    return int(head[9:12])


@dataclass
class Report:
    """What clients saw: seconds by status, and how long it all took."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    took: float = 0.0

    def note(self, status: int, seconds: float) -> None:
        """Add an answer."""
        self.seconds.setdefault(status, []).append(seconds)

    def percentile(self, share: float) -> float:
        """Return the seconds that so many hundredths of the good answers took at most."""
        return float(np.percentile(self.seconds.get(200) or [float("nan")], share))

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers of each status; 0: none, the connection was lost."""
        return {status: len(all_) for status, all_ in sorted(self.seconds.items())}

    @property
    def rate(self) -> float:
        """Requests a second that were answered."""
        return len(self.seconds.get(200, [])) / self.took

    def line(self) -> str:
        """Return all of it in a line."""
        return (
            f"{self.rate:7.1f} requests/s, p50 {1000 * self.percentile(50):6.0f} ms, "
            f"p99 {1000 * self.percentile(99):6.0f} ms, statuses {self.statuses}"
        )


async def closed(
    place: tuple[str, int], clients: int, seconds: float, requests: Callable[[], bytes], tick: Callable[[float], None]
) -> Report:
    """Let clients ask one request after the other; the first tenth of the time is left out."""
    report, begun = Report(), time.perf_counter()
    counted, end = begun + 0.1 * seconds, begun + seconds

    async def client() -> None:
        kept: list[Any] = []
        while (start := time.perf_counter()) < end:
            status = await ask(place, requests(), kept)
            done = time.perf_counter()
            if counted <= done <= end:
                report.note(status, done - start)
            tick(done - begun)
        for _, writer in kept:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    report.took = end - counted
    return report


async def opened(place: tuple[str, int], rate: float, seconds: float, requests: Callable[[], bytes]) -> Report:
    """Send requests at a rate, whatever becomes of them."""
    report, kept, running = Report(), [], set()
    begun = time.perf_counter()

    async def one() -> None:
        start = time.perf_counter()
        status = await ask(place, requests(), kept)
        report.note(status, time.perf_counter() - start)

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    report.took = time.perf_counter() - begun
    await asyncio.gather(*running)
    return report


class Served:
    """`onepeace serve` in processes of its own."""

    def __init__(self, dtype: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "retrieval", "serve", "--port", "0", "--dtype", dtype, "--cache-mb", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "running on" in line:
                address = json.loads(line)["message"].split()[3]
                break
        host, port = address.removeprefix("http://").split(":")
        self.place = (host, int(port))
        # Its log must be read, or it stops when the pipe is full.
        self.log = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def family(self) -> list[int]:
        """Return the processes."""
        known = [self.process.pid]
        for pid in known:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                known += [int(child) for child in task.read_text().split()]
        return known

    def memory(self) -> float:
        """Return the MiB that all of them hold, shared pages once."""
        total = 0
        for pid in self.family():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def worker(self) -> int:
        """Return the process that holds the model: the youngest."""
        return max(self.family())

    def close(self) -> None:
        """End it as an operator would."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.wait(10)


def prepared(inputs: Inputs, kind: str, number: int) -> Callable[[], bytes]:
    """Return ready requests, again from the first when they are used up."""
    requests = [request_of(inputs.next(kind)) for _ in range(number)]
    turn = count()
    return lambda: requests[next(turn) % number]


def offline_rate(model: onepeace.Embedder, inputs: Inputs, kind: str, seconds: float) -> float:
    """Return requests' worth of inputs a second of `encode`."""
    wrap = {"text": onepeace.Text, "image": onepeace.Image, "audio": onepeace.Audio}
    done, taken = 0, 0.0
    while taken < seconds:
        some = [inputs.next(kind) for _ in range(OFFLINE // (TEXTS if kind == "text" else 1))]
        values = [wrap[of](value) for request in some for of, value in request]
        start = time.perf_counter()
        model.encode(values)
        taken += time.perf_counter() - start
        done += len(some)
    return done / taken


def load(served: Served, options: argparse.Namespace, inputs: Inputs, found: dict[str, Any]) -> None:
    """Compare rates, kind by kind, in turns."""
    model = onepeace.load("onepeace-tiny", dtype=options.dtype)
    for kind in options.kinds:
        requests = prepared(inputs, kind, 2000)
        model.encode([onepeace.Text("warm")])
        offline, reports = [], []
        for _ in range(options.rounds):
            offline.append(offline_rate(model, inputs, kind, options.seconds / 4))
            reports.append(
                asyncio.run(closed(served.place, options.clients, options.seconds, requests, lambda _: None))
            )
        rate = statistics.median(report.rate for report in reports)
        share = rate / statistics.median(offline)
        spread = statistics.median(report.percentile(99) / report.percentile(50) for report in reports)
        for report in reports:
            print(f"  {kind:5} {report.line()}", flush=True)
        alone = statistics.median(offline)
        print(f"{kind:5} encode {alone:7.1f}/s, service {rate:7.1f}/s: {share:.2f}; p99/p50 {spread:.1f}")
        found[kind] = {"share": share, "spread": spread, "rate": rate}


def overload(served: Served, options: argparse.Namespace, inputs: Inputs, found: dict[str, Any]) -> None:
    """Ask five times as much as can be answered."""
    requests = prepared(inputs, "mix", 2000)
    usual = asyncio.run(closed(served.place, options.clients, options.seconds / 2, requests, lambda _: None))
    rush = asyncio.run(opened(served.place, 5 * usual.rate, options.seconds, requests))
    print(f"capacity {usual.line()}")
    print(f"times 5  {rush.line()}")
    ratio = rush.percentile(99) / usual.percentile(99)
    faults = sum(number for status, number in rush.statuses.items() if status not in (200, 429))
    print(f"overload: {faults} neither answered nor told to come back; p99 of the answered {ratio:.2f} times the usual")
    found["overload"] = {"p99": ratio, "faults": faults, "statuses": rush.statuses}


def kill(served: Served, options: argparse.Namespace, inputs: Inputs, found: dict[str, Any]) -> None:
    """Kill the model's process under load, three times, and see how long nothing is answered."""
    requests = prepared(inputs, "mix", 500)

    async def scene() -> tuple[float, Counter[int]]:
        statuses: Counter[int] = Counter()
        over = asyncio.Event()

        async def client() -> None:
            kept: list[Any] = []
            while not over.is_set():
                status = await ask(served.place, requests(), kept)
                statuses[status] += 1
                if status != 200:
                    await asyncio.sleep(0.05)

        clients = [asyncio.create_task(client()) for _ in range(16)]
        await asyncio.sleep(3)
        os.kill(served.worker(), signal.SIGKILL)
        start = time.perf_counter()
        ready = b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        kept: list[Any] = []
        while await ask(served.place, ready, kept) == 200:
            await asyncio.sleep(0.01)
        while await ask(served.place, ready, kept) != 200:
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - start
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*clients)
        return seconds, statuses

    times = []
    for _ in range(3):
        seconds, statuses = asyncio.run(scene())
        times.append(seconds)
        print(f"killed: ready again after {seconds:.1f} s; answers by status, 0 where there was none: {dict(statuses)}")
    found["kill"] = statistics.median(times)


def soak(served: Served, options: argparse.Namespace, inputs: Inputs, found: dict[str, Any]) -> None:
    """Watch the memory; what it holds after a fifth of the time is what it needs."""
    requests = prepared(inputs, "mix", 2000)
    samples: list[tuple[float, float]] = []

    def tick(at: float) -> None:
        if not samples or at - samples[-1][0] > options.soak / 60:
            samples.append((at, served.memory()))

    report = asyncio.run(closed(served.place, options.clients, options.soak, requests, tick))
    settled = [memory for at, memory in samples if 0.1 * options.soak <= at <= 0.3 * options.soak]
    last = [memory for at, memory in samples if at >= 0.8 * options.soak]
    growth = statistics.median(last) / statistics.median(settled) - 1
    print(f"soak {options.soak:.0f} s: {report.line()}")
    print(f"memory {statistics.median(settled):.0f} MiB, then {statistics.median(last):.0f} MiB: {growth:+.1%}")
    found["growth"] = growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--soak", type=float, default=600.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    scenes = {"load": load, "overload": overload, "kill": kill, "soak": soak}
    parser.add_argument("--only", nargs="*", default=list(scenes), choices=list(scenes))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    print(machine_facts())
    inputs, found = Inputs.of_gallery(), {}
    served = Served(options.dtype)
    try:
        for name in options.only:
            scenes[name](served, options, inputs, found)
    finally:
        served.close()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if "mix" in found:
        print(f"service / encode, mixed inputs: {found['mix']['share']:.2f}")


if __name__ == "__main__":
    main()
