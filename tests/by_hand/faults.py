#!/usr/bin/env python3
"""Real processes and real faults, as root: what takes a minute, a namespace or a file system to show.

    cargo build --release
    tests/by_hand/faults.py stop                 # one of three is stopped (SIGSTOP) under a mixed load
    tests/by_hand/faults.py cut [SECONDS]        # one of three is cut off between network namespaces
    tests/by_hand/faults.py disk [NODES]         # the file system under one or two of three is shut down

Each prints what it has seen and ends with "holds" or "DOES NOT HOLD". `GRIDKV` names another binary, `CLIENTS` how many
clients there are. Needs Python 3.9, and iproute2 for `cut`, e2fsprogs for `disk`.
"""

import collections
import contextlib
import fcntl
import itertools
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("GRIDKV", str(ROOT / "target/release/gridkv"))
CLIENTS = int(os.environ.get("CLIENTS", "24"))
LEVELS = ["one", "quorum", "linearizable"]
BRIDGE, SUBNET = "gridkv-hand", "10.77.0"


def run(*words):
    subprocess.run(words, check=True)


class Cluster:
    """Three nodes: on this host's ports, or each in a network namespace."""

    def __init__(self, place, storage, namespaces=False):
        self.place, self.storage, self.namespaces = place, storage, namespaces
        self.directories = {n: place / f"node-{n}" for n in (1, 2, 3)}
        self.processes = {}

    def host(self, n):
        return f"{SUBNET}.{n}" if self.namespaces else "127.0.0.1"

    def port(self, base, n):
        return base if self.namespaces else base + n

    def start(self, n):
        words = ["ip", "netns", "exec", f"gridkv-{n}"] if self.namespaces else []
        words += [BINARY, "--cores", "1", *self.storage, "--data", str(self.directories[n])]
        for option, base in (("listen", 17380), ("admin", 18380), ("cluster", 27380)):
            words += [f"--{option}", f"{self.host(n)}:{self.port(base, n)}"]
        if n > 1:
            words += ["--join", f"{self.host(1)}:{self.port(27380, 1)}"]
        with open(self.place / f"{n}.log", "a") as log:
            self.processes[n] = subprocess.Popen(words, stdout=log, stderr=log)

    def start_all(self):
        for n in (1, 2, 3):
            self.start(n)
        self.wait_ready()

    def wait_ready(self):
        for n in (1, 2, 3):
            until = time.time() + 60
            while not self.is_ready(n):
                if time.time() > until:
                    sys.exit(f"node {n} does not become ready: see {self.place}")
                time.sleep(0.1)

    def is_ready(self, n):
        url = f"http://{self.host(n)}:{self.port(18380, n)}/readyz"
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(url, timeout=2).status == 200
        return False

    def kill(self, n):
        self.processes[n].kill()
        self.processes.pop(n).wait()

    def client(self, n, level):
        return Client((self.host(n), self.port(17380, n)), level)

    def stop(self):
        for n in list(self.processes):
            self.kill(n)


class Client:
    """One connection at one level."""

    def __init__(self, address, level):
        self.socket = socket.create_connection(address, timeout=30)
        self.lines = self.socket.makefile("rb")
        assert self.ask("GRIDKV", "CONSISTENCY", level) == "+OK"

    def ask(self, *words):
        """The reply: a value as itself, nil as None, all else with its sign."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self.socket.sendall(request.encode())
        line = self.lines.readline().decode().rstrip()
        if not line:
            raise ConnectionError("closed")
        if not line.startswith("$"):
            return line
        return None if line == "$-1" else self.lines.readline().decode().rstrip()


def load(count, work):
    """Runs `work(client number, stop event)` in threads; the function ends and waits for them."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(number, stop)) for number in range(count)]
    for thread in threads:
        thread.start()

    def end():
        stop.set()
        for thread in threads:
            thread.join()

    return end


def why(reply):
    return reply.split(":")[0][:70]


def say(holds):
    print("holds" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


def stop(place, _):
    """Nobody waits for longer than a request may take; no known end has, of each client, what was handed to it."""
    cluster = Cluster(place, ["--storage", "memory"])
    cluster.start_all()
    seen, longest, lock = collections.Counter(), [0.0], threading.Lock()

    def work(number, stopped):
        client, rng = cluster.client(1 + number % 2, LEVELS[number % 3]), random.Random(number)
        while not stopped.is_set():
            number_of_key = rng.randrange(200)
            words = rng.choice([
                ("SET", f"own-{number}-{number_of_key}", "v"), ("GET", f"own-{number}-{number_of_key}"),
                ("INCR", f"count-{number_of_key}"), ("GET", f"count-{number_of_key}"),
            ])
            began = time.time()
            reply = client.ask(*words)
            with lock:
                longest[0] = max(longest[0], time.time() - began)
                seen[why(reply) if reply and reply.startswith("-") else "ok"] += 1

    end = load(CLIENTS, work)
    time.sleep(2)
    cluster.processes[3].send_signal(signal.SIGSTOP)
    time.sleep(5)
    cluster.processes[3].send_signal(signal.SIGCONT)
    time.sleep(3)
    end()
    cluster.stop()
    unknown = sum(count for reply, count in seen.items() if reply.startswith("-UNKNOWN"))
    print(f"{CLIENTS} clients, the longest request {longest[0]:.3f} s, {dict(seen)}")
    return say(longest[0] <= 1.2 and unknown <= CLIENTS + 5)


@contextlib.contextmanager
def namespaces():
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{SUBNET}.254/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for n in (1, 2, 3):
            name, end = f"gridkv-{n}", f"gridkv-v{n}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", end, "master", BRIDGE, "up")
            run("ip", "-n", name, "addr", "add", f"{SUBNET}.{n}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for n in (1, 2, 3):
            subprocess.run(["ip", "netns", "del", f"gridkv-{n}"], check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def cut(place, words):
    """After a cut all copies are written again, soon."""
    seconds = float(words[0]) if words else 60.0
    with namespaces():
        cluster = Cluster(place, ["--storage", "memory"], namespaces=True)
        cluster.start_all()

        def work(number, stopped):
            client = cluster.client(1 + number % 2, "quorum")
            for key in itertools.count():
                if stopped.is_set():
                    return
                client.ask("SET", f"load-{number}-{key}", "v")
                time.sleep(0.01)

        end = load(4, work)
        run("ip", "link", "set", "gridkv-v3", "nomaster")
        time.sleep(seconds)
        everywhere = {n: cluster.client(n, "all") for n in (1, 2)}
        print("cut off:", {n: why(client.ask("SET", "k", "v")) for n, client in everywhere.items()})
        run("ip", "link", "set", "gridkv-v3", "master", BRIDGE)
        healed, took = time.time(), {}
        while len(took) < 2 and time.time() - healed < 60:
            for n, client in everywhere.items():
                if n not in took and client.ask("SET", "k", "v") == "+OK":
                    took[n] = round(time.time() - healed, 2)
            time.sleep(0.05)
        end()
        cluster.stop()
    print(f"cut off for {seconds} s; `all` succeeds again after {took} s")
    return say(len(took) == 2 and max(took.values()) <= 10)


def disk(place, words):
    """What is answered as not done is not there after a restart; what is acknowledged is."""
    broken = {"1": [3], "2": [2, 3]}[words[0] if words else "1"]
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    run("truncate", "-s", "1G", str(image))
    run("mkfs.ext4", "-q", str(image))
    mount = ["mount", "-o", "loop", str(image), str(mounted)]
    run(*mount)
    try:
        cluster = Cluster(place, ["--storage", "file"])
        cluster.directories.update({n: mounted / f"node-{n}" for n in broken})
        cluster.start_all()
        done, refused, seen, lock = [], [], collections.Counter(), threading.Lock()

        def work(number, stopped):
            level = LEVELS[number // 3 % 3]
            client = cluster.client(1 + number % 3, level)
            for count in itertools.count():
                if stopped.is_set():
                    return
                key = f"{number}-{count}"
                words = [("SET", key, "1"), ("SET", key, "1", "NX"), ("INCR", key)][count % 3]
                reply = client.ask(*words)
                with lock:
                    if not reply.startswith("-"):
                        done.append(key)
                        continue
                    seen[f"{level}: {why(reply)}"] += 1
                    if not reply.startswith("-UNKNOWN"):
                        refused.append(key)

        end = load(CLIENTS, work)
        time.sleep(2.5)
        shut_down(mounted)
        time.sleep(2)
        end()
        for n in broken:
            cluster.kill(n)
        unmount(mounted)
        run(*mount)
        for n in broken:
            cluster.start(n)
        cluster.wait_ready()
        there = set()
        for n, level in ((3, "one"), (1, "quorum"), (2, "all"), (3, "linearizable")):
            client = cluster.client(n, level)
            there.update(key for key in refused if client.ask("GET", key) is not None)
        client = cluster.client(1, "quorum")
        lost = [key for key in done if client.ask("GET", key) != "1"]
        cluster.stop()
    finally:
        unmount(mounted)
    print(dict(seen))
    print(f"{len(done)} acknowledged, {len(lost)} of them gone; {len(refused)} refused, {len(there)} of them there")
    return say(not lost and not there)


def unmount(mounted):
    """A process that was killed may hold it for a moment longer."""
    for _ in range(100):
        if subprocess.run(["umount", str(mounted)], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit(f"{mounted} stays mounted")


def shut_down(mounted):
    """The file system takes nothing any more, and forgets what was not on disk (EXT4_IOC_SHUTDOWN)."""
    request, without_log_flush = 0x8004587D, 2
    descriptor = os.open(mounted, os.O_RDONLY)
    fcntl.ioctl(descriptor, request, struct.pack("I", without_log_flush))
    os.close(descriptor)


def main():
    experiments = {"stop": stop, "cut": cut, "disk": disk}
    if len(sys.argv) < 2 or sys.argv[1] not in experiments:
        sys.exit(__doc__)
    place = pathlib.Path(tempfile.mkdtemp(prefix="gridkv-"))
    ended = experiments[sys.argv[1]](place, sys.argv[2:])
    shutil.rmtree(place)
    return ended


if __name__ == "__main__":
    sys.exit(main())
