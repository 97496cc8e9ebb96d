#!/usr/bin/python3
"""What mod_sc costs an Apache whose sessions do not move: processor time for each request, of three instances that wrk drives in turns.

cost.py MODULE [ROUNDS] [STARTS]. One instance has the module, two have not: the second of those is the control, whose ratio shows what the machine alone
makes of it. They are started anew STARTS times, since the addresses that a process happens to get favour or hinder it for its whole life. MPM names another
MPM than event, and CASES the cases to be measured, by their numbers from 0 on: "0,1". With TLS set the clients speak TLS 1.3, and the instance with the
module has SCTLS on."""

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

MODULES = "/usr/lib/apache2/modules"
SCHEME = "https" if os.environ.get("TLS") else "http"
CASES = [
    # name, file, bytes, connections, wrk's arguments
    ("1,000 bytes, kept connections", "small", 1000, 4, []),
    ("1,000 bytes, a connection each", "small", 1000, 4, ["-H", "Connection: close"]),
    ("64 KiB, kept connections", "medium", 65536, 4, []),
    ("10 MB, kept connections", "large", 10_000_000, 2, []),
]


class Instance:
    def __init__(self, folder, name, port, mpm, module):
        self.port, self.folder = port, f"{folder}/{name}"
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o755)
        room = (
            "StartServers 8\nMinSpareServers 4\nMaxSpareServers 32\nMaxRequestWorkers 32"
            if mpm == "prefork"
            else "StartServers 1\nThreadsPerChild 32\nMinSpareThreads 1\nMaxSpareThreads 32\nMaxRequestWorkers 32"
        )
        with open(f"{self.folder}/httpd.conf", "w") as file:
            file.write(f"ServerRoot {self.folder}\nServerName bench\nPidFile {self.folder}/pid\nDefaultRuntimeDir {self.folder}\n")
            file.write(f"User www-data\nGroup www-data\nErrorLog {self.folder}/error.log\n")
            for word in [f"mpm_{mpm}", "authz_core", "mime", "reqtimeout", "setenvif"]:
                file.write(f"LoadModule {word}_module {MODULES}/mod_{word}.so\n")
            if module:
                file.write(f"LoadModule sc_module {module}\nSCService bench\n")
            if SCHEME == "https":
                file.write(f"LoadModule ssl_module {MODULES}/mod_ssl.so\nSSLEngine on\nSSLProtocol TLSv1.3\n{module and 'SCTLS on' or ''}\n")
                file.write(f"SSLCertificateFile {folder}/tls.crt\nSSLCertificateKeyFile {folder}/tls.key\n")
            file.write(f"{room}\nListen 127.0.0.1:{port}\nTypesConfig /dev/null\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n")
            file.write(f"DocumentRoot {folder}/www\n<Directory />\nRequire all granted\n</Directory>\n")
            file.write(f'LogFormat "%a %>s %B" short\nCustomLog {self.folder}/access.log short\n')
        self.server = subprocess.Popen(
            ["/usr/sbin/apache2", "-f", f"{self.folder}/httpd.conf", "-DFOREGROUND"], start_new_session=True,
            env={"PATH": os.environ["PATH"], "SC_RUN_DIR": self.folder})
        for _ in range(100):
            time.sleep(0.1)
            if subprocess.run(["curl", "-k", "-s", "-o", "/dev/null", f"{SCHEME}://127.0.0.1:{port}/small"]).returncode == 0:
                return
        raise SystemExit(f"apache2 does not start: {open(self.folder + '/error.log').read()}")

    def processor_time(self):
        """Nanoseconds of all its threads; they live as long as it does."""
        pids, total = [self.server.pid], 0
        for pid in pids:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    total += int(file.read().split()[0])
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    pids += map(int, file.read().split())
        return total

    def drive(self, case):
        _, file, _, connections, arguments = case
        before = self.processor_time()
        command = ["wrk", "-t1", f"-c{connections}", "-d1s", *arguments, f"{SCHEME}://127.0.0.1:{self.port}/{file}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        after = self.processor_time()
        if "Socket errors" in said or "Non-2xx" in said:
            raise SystemExit(f"a request failed: {said}")
        requests = int(re.search(r"(\d+) requests in", said)[1])
        return (after - before) / requests / 1000, float(re.search(r"Requests/sec: +([\d.]+)", said)[1])

    def stop(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait()
        shutil.rmtree(self.folder)


def spread(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main():
    module, rounds, starts = sys.argv[1], int((sys.argv[2:] or [5])[0]), int((sys.argv[3:] or [5])[0])
    mpm = os.environ.get("MPM", "event")
    cases = [CASES[int(number)] for number in os.environ["CASES"].split(",")] if "CASES" in os.environ else CASES
    costs = {case[0]: [] for case in cases}
    rates = {case[0]: [] for case in cases}
    folder = tempfile.mkdtemp(prefix="sc-apache-bench-")
    try:
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/www")
        if SCHEME == "https":
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench", "-out", f"{folder}/tls.crt"]
            subprocess.run([*command, "-keyout", f"{folder}/tls.key"], capture_output=True, check=True)
        for _, file, length, _, _ in CASES:
            with open(f"{folder}/www/{file}", "wb") as out:
                out.write(os.urandom(length))
        for start in range(starts):
            instances = [Instance(folder, name, 18081 + index, mpm, name == "with" and module) for index, name in enumerate(["with", "without", "control"])]
            try:
                for case in cases:
                    for instance in instances:
                        instance.drive(case)
                    for turn in range(rounds):
                        measured = [None] * 3
                        for place in range(3):
                            which = (place + turn + start) % 3
                            measured[which] = instances[which].drive(case)
                        costs[case[0]].append([cost for cost, _ in measured])
                        rates[case[0]].append([rate for _, rate in measured])
            finally:
                for instance in instances:
                    instance.stop()
    finally:
        shutil.rmtree(folder)
    count = rounds * starts
    print(f"{mpm}, {SCHEME}, {count} rounds of 1 s each, {starts} starts; load {os.getloadavg()[0]:.1f}")
    print("processor time for each request, ratio to an Apache without the module: median and quartiles of the rounds")
    print("| | µs without | requests/s | with mod_sc | control |")
    print("|---|---|---|---|---|")
    for case in cases:
        rows = costs[case[0]]
        ratio, control = spread([row[0] / row[1] for row in rows]), spread([row[2] / row[1] for row in rows])
        rate = statistics.median(row[1] for row in rates[case[0]])
        print(f"| {case[0]} | {statistics.median(row[1] for row in rows):.1f} | {rate:.0f} | {ratio} | {control} |", flush=True)


main()
