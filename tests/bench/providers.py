#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What peerpod-providerd costs with a module, against that module's peer on this machine (tests/integration/cloud_peers.py): its start, its
memory and descriptors, idle and after instances that were made and deleted, 1,000 and a quarter of them, and how much longer a create and a
delete take than the peer itself spends on their requests. The peer is ready as soon as it can be; pauses, in which the module
waits on purpose until it looks again, are told apart. A baseline of the same run: the daemon with the tests' module whose instances are files.

Usage: providers.py PROVIDERD FAKE.so MODULE.so   (run by tests/peers/python; PEERPOD_BENCH_ROUNDS=1000)"""
import collections
import concurrent.futures
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "integration"))
import cloud_peers
import cloud_rig

PROVIDERD, FAKE, MODULE = sys.argv[1:4]
ROUNDS, STARTS = int(os.environ.get("PEERPOD_BENCH_ROUNDS", "1000")), 15
ALONE = ROUNDS // 5             # of them one after the other, for the times; the others AT_ONCE
EARLY, AT_ONCE = ROUNDS // 4, 4
GROWTH_MAX_KIB = 1024           # of own memory from EARLY on: arenas of malloc() that fill up, but not an answer or user data for each instance
CONNECTIONS_MAX = 16            # that the HTTP client may have opened meanwhile


Memory = collections.namedtuple("Memory", "pss own descriptors")


def memory(pid):
    """In KiB. `own` is what it shares with nobody; the share of libraries depends on who else runs. Connections of ours may just be ending."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.01)
    return Memory(values["Pss"], values["Anonymous"], min(counts))


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask_name(path):
    return cloud_rig.bus_call(path, "Get", ["s", "s"], [cloud_rig.PROVIDER_INTERFACE, "Name"], interface="org.freedesktop.DBus.Properties")


def start_ms(module, environment):
    """From exec() until the daemon has answered a first question that needs no cloud; the best of some, which the machine disturbs least"""
    times = []
    for _ in range(STARTS):
        begin = time.perf_counter()
        with cloud_rig.Daemon(PROVIDERD, module, environment, pause=0.0002) as d:
            ask_name(d.socket)
            times.append(time.perf_counter() - begin)
    return min(times) * 1000


def idle(module, environment):
    with cloud_rig.Daemon(PROVIDERD, module, environment) as d:
        ask_name(d.socket)
        return memory(d.process.pid)


def percentile(values, p):
    return statistics.quantiles(values, n=100, method="inclusive")[p - 1]


def measure(cloud, environment):
    """([(whole, Spent of the peer's)] in seconds for a create and a delete, processor seconds of ours, Memory after EARLY, after ROUNDS)"""
    times, looks = [], []
    with cloud_rig.Daemon(PROVIDERD, MODULE, environment) as d, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        def one(i):
            d.delete(f"s{i}", id=d.create(f"s{i}")[0])

        one(0)                                                  # asks for a token, for the list of machine types, …
        processor = processor_seconds(d.process.pid)
        for i in range(1, ALONE + 1):
            cloud.forget()
            before, begin = cloud.spent(), time.perf_counter()
            one(i)
            whole = time.perf_counter() - begin
            times.append((whole, cloud_peers.Spent(*(a - b for a, b in zip(cloud.spent(), before)))))
        processor = (processor_seconds(d.process.pid) - processor) / ALONE
        for begin, end in (ALONE, EARLY), (EARLY, ROUNDS):
            for i in range(begin + 1, end + 1, 5 * AT_ONCE):
                cloud.forget()
                list(pool.map(one, range(i, min(i + 5 * AT_ONCE, end + 1))))
            looks.append(memory(d.process.pid))
        assert not cloud.left(), cloud.left()
    return times, processor, *looks


def main():
    name = pathlib.Path(MODULE).stem
    with tempfile.TemporaryDirectory() as home, cloud_peers.open(name) as cloud:
        base_ms, base = start_ms(FAKE, {"HOME": home}), idle(FAKE, {"HOME": home})
        cloud.at_once()
        environment = cloud.environment()
        ms, first = start_ms(MODULE, environment), idle(MODULE, environment)
        times, processor, early, late = measure(cloud, environment)
    print(f"{name}, with a load of {os.getloadavg()[0]:.1f}\n"
          f"    start to first answer {ms:.1f} ms, {ms / base_ms:.2f} of the file module's; idle {first.pss} KiB PSS, own memory "
          f"{first.own} KiB, {first.own / base.own:.2f} of it, {first.descriptors} descriptors\n"
          f"    {EARLY} and {ROUNDS} instances later {early.pss} and {late.pss} KiB PSS, own memory {early.own} and {late.own} KiB ({late.own / early.own:.3f}), "
          f"{early.descriptors} and {late.descriptors} descriptors")
    figures = {}
    for what, values in (("whole", [w for w, _ in times]), ("without pauses", [w - s.paused for w, s in times]), ("peer", [s.busy for _, s in times])):
        figures[what] = [percentile(values, p) * 1000 for p in (50, 99)]
    print(f"    create and delete, {statistics.median(s.requests for _, s in times):.0f} requests; p50, p99: " +
          "; ".join(f"{k} {a:.1f}, {b:.1f} ms" for k, (a, b) in figures.items()) +
          "; ratio without pauses {:.2f}, {:.2f}".format(*(a / b for a, b in zip(figures["without pauses"], figures["peer"]))) +
          f"; our processor time {processor * 1000:.1f} ms", flush=True)
    assert late.own <= early.own + GROWTH_MAX_KIB, f"memory grows: {early} after {EARLY}, {late} after {ROUNDS}"
    assert late.descriptors <= early.descriptors + CONNECTIONS_MAX, f"descriptors grow: {early}, {late}"


if __name__ == "__main__":
    main()
