"""The service under load on loopback: many clients that ask again as soon as they are answered.

    python tests/benchmarks/serving.py [--clients 100] [--requests 4000] [--images FOLDER --weights RUN]

Each query sends an image of 600 × 450 pixels; without --images the miniature is searched. First queries are sent one
by one: their processor time in the server is the unit in which waiting times under load are stated. With C clients and
one core for queries, C units are what a server without batches would need.
"""

import argparse
import http.client
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
from PIL import Image

SINGLE = 50  # queries that are sent one by one
CONDITIONS = ("is red instead", "has a black background", "has two of them", "is larger and striped")


def make_body(index: int) -> tuple[bytes, str]:
    """Return a form with an image and a condition, and its content type."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(256, size=(12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((600, 450)).save(file, "jpeg")
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    text = f'\r\n--{mark}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{CONDITIONS[index % len(CONDITIONS)]}'
    body = head.encode() + file.getvalue() + f"{text}\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


class Client:
    """One client with a connection that stays open."""

    def __init__(self, port: int, index: int):
        self._connection = http.client.HTTPConnection("localhost", port, timeout=120)
        self._body, self._type = make_body(index)

    def ask(self) -> tuple[int, float]:
        """Return the status of a query and its time in milliseconds."""
        start = time.perf_counter()
        self._connection.request("POST", "/search", self._body, {"Content-Type": self._type})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, 1000 * (time.perf_counter() - start)


def read_metrics(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("localhost", port, timeout=120)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def measure(port: int, clients: int, requests: int) -> tuple[list[int], list[float]]:
    """Return statuses and times of `requests` queries, sent by clients at once."""
    statuses: list[int] = []
    times: list[float] = []

    def run(client: Client, count: int) -> None:
        for _ in range(count):
            status, milliseconds = client.ask()
            statuses.append(status)
            times.append(milliseconds)

    counts = [requests // clients + (index < requests % clients) for index in range(clients)]
    threads = [
        threading.Thread(target=run, args=(Client(port, index), count)) for index, count in enumerate(counts) if count
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--images")
    parser.add_argument("--weights")
    options = parser.parse_args()
    gallery = ("--images", options.images) if options.images else ()
    weights = ("--weights", options.weights) if options.weights else ()
    command = [sys.executable, "-m", "rtd_plugin", "serve", *gallery, *weights, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        try:
            line = server.stdout.readline()
            port = int(re.search(r"localhost:(\d+)", line)[1])
            measure(port, 1, 5)
            before = read_metrics(port)
            _, single = measure(port, 1, SINGLE)
            middle = read_metrics(port)
            began = time.perf_counter()
            statuses, times = measure(port, options.clients, options.requests)
            seconds = time.perf_counter() - began
            after = read_metrics(port)
        finally:
            server.send_signal(signal.SIGINT)
    unit = 1000 * (middle["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / SINGLE
    loaded = 1000 * (after["process_cpu_seconds_total"] - middle["process_cpu_seconds_total"]) / options.requests
    batches = after["rtd_batch_queries_count"] - middle["rtd_batch_queries_count"]
    failed = sum(status != 200 for status in statuses) + options.requests - len(statuses)
    p50, p95 = (float(np.percentile(times, percent)) for percent in (50, 95))
    print(line.strip())
    print(f"  one by one: {unit:.1f} ms of processor time, {np.median(single):.1f} ms until the answer")
    rate = options.requests / seconds
    print(f"  {options.clients} clients, {options.requests} queries: {rate:.0f} a second, {failed} failed")
    print(f"  {loaded:.1f} ms of processor time each, {options.requests / batches:.1f} queries a batch")
    print(f"  until the answer: median {p50:.0f} ms, 95 % within {p95:.0f} ms", end=" ")
    print(f"= {p95 / unit:.0f} times one query's processor time")
    print(f"  the server ended with {server.returncode}")


if __name__ == "__main__":
    main()
