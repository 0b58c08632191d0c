#!/usr/bin/env python3
"""demo.py: the second half of scripts/demo, which has installed and built what is used here.

Starts PostgreSQL, Elasticsearch and Rowtide, and shows both sides of what they do. Standard library only.
ROWTIDE_BIN names the program. What was started is stopped in order at the end, however the end comes: Rowtide by
SIGTERM, PostgreSQL by SIGINT, Elasticsearch by SIGTERM; and by the kernel (STOP_WITH_PARENT) if this process is killed.
"""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROWTIDE = os.path.abspath(os.environ.get("ROWTIDE_BIN", os.path.join(HERE, "..", "target", "release", "rowtide")))
WRITES_A_SECOND = 20
PROBES = 20
STATUS_SECONDS = 3

TABLE = """
CREATE TABLE packages (
  package text PRIMARY KEY,
  version text,
  section text,
  maintainer text,
  installed_size int,
  description text,
  homepage text,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""

CONFIG = """\
data_dir = "state"

[sources.debian]
type = "postgres"
url = "postgres://cdc@127.0.0.1:{pg_port}/demo"
password = "${{DEMO_PASSWORD}}"

[targets.search]
type = "elasticsearch"
nodes = ["http://127.0.0.1:{es_port}"]
# So that it can be searched while it fills.
ease_backfill = "nothing"

[pipelines.packages]
source = "debian"
target = "search"

[pipelines.packages.tables."public.packages"]
index = "packages"
"""

# Words that each must be in the description.
QUERIES = (("chess", "engine"), ("protein", "alignment"), ("hypervisor",), ("weather", "forecast"))


class Failed(Exception):
    """The demonstration cannot go on; the text says why."""


class Step:
    """A numbered line that says what is done, and then how it went."""

    def __init__(self, number, text):
        print(f"[{number}/8] {text} … ", end="", flush=True)
        self.started = time.monotonic()

    def done(self, text=""):
        took = time.monotonic() - self.started
        print(f"{took:.0f} s" + (f": {text}" if text else ""), flush=True)


class Server:
    """A process of ours and how it is stopped. Only the process that was started is ever signalled."""

    def __init__(self, name, command, stop_signal, log_path, environment=None):
        self.name, self.stop_signal, self.log_path = name, stop_signal, log_path
        with open(log_path, "ab") as log:
            # A session of its own: Ctrl-C reaches this script alone, which then stops all in order.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, env={**os.environ, **(environment or {})})

    def check(self):
        if self.process.poll() is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                tail = "".join(log.readlines()[-30:])
            raise Failed(f"{self.name} ended with {self.process.returncode}; the end of its log:\n{tail}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Psql:
    """One psql that stays: a statement costs its round trip, not a start of psql."""

    def __init__(self, port, user, password, database):
        self.process = subprocess.Popen(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", user, database],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"})

    def run(self, sql):
        """The lines that the statement prints. Without BEGIN, it has been committed when this returns."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(sql + "\n;\n\\echo end-of-answer\n")
            self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "end-of-answer\n":
                return lines
            lines.append(line.rstrip("\n"))
        raise Failed("psql: " + " ".join(lines))

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.terminate()
        self.process.wait()


class Search:
    """Elasticsearch, over one connection that stays."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method, path, body=None):
        """(status, body). The connection opens itself again after a failure."""
        data = None if body is None else json.dumps(body)
        try:
            self.connection.request(method, path, data, {"content-type": "application/json"})
            response = self.connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def count(self):
        """Documents that a search finds now; 0 before Rowtide has made the index. No refresh is asked for: each
        takes time from the server that is being watched, and the index makes one a second by itself."""
        status, body = self.ask("GET", "/packages/_count")
        return body["count"] if status == 200 else 0

    def close(self):
        self.connection.close()


def free_port():
    """A port that is free now, and whose neighbour 100 above, for Elasticsearch's transport, is free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 100))
            except (OSError, OverflowError):
                continue
            return port


def wait_until(what, seconds, server, ready):
    """Ask `ready` until it returns something; what it raises while the server starts does not count."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        server.check()
        with contextlib.suppress(OSError, http.client.HTTPException, Failed, ValueError):
            answer = ready()
            if answer:
                return answer
        time.sleep(0.2)
    raise Failed(f"{what} was not ready within {seconds} s")


def start_postgres(stack, folder):
    port = free_port()
    server = Server("PostgreSQL", [os.path.join(HERE, "servers", "start-pg.sh"), str(port), os.path.join(folder, "pg")],
                    signal.SIGINT, os.path.join(folder, "postgres.log"), {"STOP_WITH_PARENT": "1"})
    stack.callback(server.stop)

    def login():
        admin = Psql(port, "postgres", "postgres", "postgres")
        try:
            return admin.run("SELECT current_setting('server_version')")[0]
        finally:
            admin.close()

    version = wait_until("PostgreSQL", 60, server, login)
    admin = Psql(port, "postgres", "postgres", "postgres")
    admin.run("CREATE DATABASE demo OWNER cdc")
    admin.close()
    return port, version


def start_elasticsearch(stack, folder):
    port = free_port()
    server = Server("Elasticsearch", [os.path.join(HERE, "servers", "start-es8.sh"), str(port), os.path.join(folder, "es")],
                    signal.SIGTERM, os.path.join(folder, "elasticsearch.log"), {"STOP_WITH_PARENT": "1"})
    stack.callback(server.stop)
    search = Search(port)
    stack.callback(search.close)
    version = wait_until("Elasticsearch", 120, server, lambda: search.ask("GET", "/")[1]["version"]["number"])
    return search, port, version


def load(port):
    """Copy Debian's package index into the table. Returns the number of rows."""
    database = Psql(port, "cdc", "cdc", "demo")
    database.run(TABLE)
    rows = subprocess.Popen([os.path.join(HERE, "debian_packages.py")], stdout=subprocess.PIPE, start_new_session=True)
    copy = subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", "cdc", "demo", "-c",
         "\\copy packages (package, version, section, maintainer, installed_size, description, homepage) from pstdin"],
        stdin=rows.stdout, env={**os.environ, "PGPASSWORD": "cdc"}, check=False)
    if rows.wait() != 0 or copy.returncode != 0:
        raise Failed("the package index could not be loaded")
    count = int(database.run("SELECT count(*) FROM packages")[0])
    database.run("ANALYZE packages")
    database.close()
    return count


def start_rowtide(stack, folder, pg_port, es_port):
    config = os.path.join(folder, "rowtide.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(pg_port=pg_port, es_port=es_port))
    server = Server("Rowtide", ["setpriv", "--pdeathsig=TERM", ROWTIDE, "run", "--config", config],
                    signal.SIGTERM, os.path.join(folder, "rowtide.log"), {"DEMO_PASSWORD": "cdc"})
    stack.callback(server.stop)
    return server


def memory(server):
    """Peak resident memory of the process, in MiB."""
    with contextlib.suppress(OSError), open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


def watch_backfill(rowtide, search, rows):
    """Print what the index holds until it holds all rows. Returns documents a second."""
    started = shown = time.monotonic()
    while True:
        rowtide.check()
        count = search.count()
        now = time.monotonic()
        if count >= rows:
            return count / (now - started)
        if now - shown >= 2:
            shown = now
            print(f"      {count:,} of {rows:,} documents, {count / (now - started):,.0f}/s", flush=True)
        if now - started > 900:
            raise Failed(f"the index holds {count:,} of {rows:,} documents after 15 minutes")
        time.sleep(0.5)


class Writer(threading.Thread):
    """Changes rows, one row a transaction: most are updates, a few come and go."""

    def __init__(self, port, names):
        super().__init__(daemon=True)
        self.database, self.names = Psql(port, "cdc", "cdc", "demo"), names
        self.stopped, self.commits, self.error = threading.Event(), 0, None

    def run(self):
        chance = random.Random(1)
        try:
            while not self.stopped.wait(1 / WRITES_A_SECOND):
                name = chance.choice(self.names)
                # Not every name is there when its turn comes again; such a statement changes nothing.
                if self.commits % 50 == 48:
                    self.database.run(f"DELETE FROM packages WHERE package = {quote(name)}")
                elif self.commits % 50 == 49:
                    self.database.run("INSERT INTO packages (package, section, description) VALUES "
                                      "('new-' || gen_random_uuid(), 'demo', 'a package that the writer made')")
                else:
                    self.database.run("UPDATE packages SET installed_size = installed_size + 1, "
                                      f"updated_at = clock_timestamp() WHERE package = {quote(name)}")
                self.commits += 1
        except (Failed, ValueError) as error:
            self.error = error

    def check(self):
        if self.error and not self.stopped.is_set():
            raise Failed(f"the writer: {self.error}")

    def stop(self):
        self.stopped.set()
        if self.ident:
            self.join(10)
        self.database.close()  # a second time does no harm


def start_writer(stack, port, names):
    writer = Writer(port, names)
    stack.callback(writer.stop)
    writer.start()
    return writer


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def ask_both(database, search, words):
    """Each side's names and milliseconds for: which packages have these words in their description?"""
    where = " AND ".join(f"description ~* {quote(chr(92) + 'm' + word + chr(92) + 'M')}" for word in words)
    began = time.monotonic()
    rows = database.run(f'SELECT package FROM packages WHERE {where} ORDER BY package COLLATE "C"')
    asked = time.monotonic()
    query = {"match": {"description": {"query": " ".join(words), "operator": "and"}}}
    status, body = search.ask("POST", "/packages/_search?size=10000&_source=false", {"query": query})
    answered = time.monotonic()
    if status != 200:
        raise Failed(f"the search for {' '.join(words)} was answered with {status}: {body}")
    found = sorted(hit["_id"] for hit in body["hits"]["hits"])
    return rows, (asked - began) * 1000, found, (answered - asked) * 1000


def show_queries(database, search):
    """The same questions to both sides."""
    for words in QUERIES:
        for _ in range(3):
            rows, sql_ms, found, search_ms = ask_both(database, search, words)
            if rows == found:
                break
            time.sleep(1)  # the writer is at work: what was just committed is searchable after the next refresh
        print(f"\n      descriptions with: {' '.join(words)}")
        print(f"      PostgreSQL     {len(rows):4} rows       {sql_ms:7.1f} ms   {', '.join(rows[:3])}, …")
        print(f"      Elasticsearch  {len(found):4} documents  {search_ms:7.1f} ms   {', '.join(found[:3])}, …")
        different = sorted(set(rows) ^ set(found))
        print("      the same" if not different else
              f"      not the same (the two sides cut words differently at dots): {', '.join(different[:5])}")
    print(flush=True)


def settle(database, search, rowtide, seconds=30):
    """Once no writer is running: wait until both sides count the same. Returns both counts."""
    end = time.monotonic() + seconds
    while True:
        rowtide.check()
        rows, documents = int(database.run("SELECT count(*) FROM packages")[0]), search.count()
        if rows == documents or time.monotonic() > end:
            return rows, documents
        time.sleep(0.3)


def compare_sample(database, search, size=2000):
    """Compare rows drawn by chance, field by field, with their documents. Returns (compared, different)."""
    columns = "package, version, section, maintainer, installed_size, description, homepage"
    sample = json.loads("".join(database.run(
        f"SELECT json_agg(row_to_json(s)) FROM (SELECT {columns} FROM packages ORDER BY random() LIMIT {size}) s")))
    _, body = search.ask("POST", "/packages/_mget", {"ids": [row["package"] for row in sample]})
    documents = {item["_id"]: item.get("_source") or {} for item in body["docs"]}
    different = [row["package"] for row in sample
                 if any(documents[row["package"]].get(name, "absent") != value for name, value in row.items())]
    return len(sample), different


def measure_probe(database, search, rowtide, name, token):
    """Change one row; seconds from its commit until the document has it, and until a search finds it."""
    database.run(f"UPDATE packages SET homepage = {quote('probe ' + token)} WHERE package = {quote(name)}")
    committed, indexed = time.monotonic(), None
    path = "/packages/_doc/" + name.replace("+", "%2B") + "?_source_includes=homepage"
    while time.monotonic() - committed < 30:
        if indexed is None:
            # A get by id sees what is written, refreshed or not.
            status, body = search.ask("GET", path)
            if status == 200 and token in (body["_source"].get("homepage") or ""):
                indexed = time.monotonic() - committed
        else:
            _, body = search.ask("POST", "/packages/_search?size=1&_source=false", {"query": {"match": {"homepage": token}}})
            if body["hits"]["hits"]:
                return indexed, time.monotonic() - committed
        time.sleep(0.002)
    rowtide.check()
    raise Failed(f"the change of {name} did not reach the index within 30 s")


def measure(database, search, rowtide, names):
    chance, indexed, searchable = random.Random(), [], []
    for number in range(PROBES):
        one, two = measure_probe(database, search, rowtide, chance.choice(names), f"token{number}x{chance.getrandbits(32)}")
        indexed.append(one)
        searchable.append(two)
        # Not in step with the index's refresh.
        time.sleep(chance.uniform(0.2, 0.8))
    status, body = search.ask("GET", "/packages/_settings?include_defaults=true&filter_path=**.refresh_interval")
    interval = re.findall(r'"refresh_interval": "([^"]+)"', json.dumps(body)) if status == 200 else []
    print(f"      {PROBES} changes, from commit to …     p50         max")
    for what, times in (("indexed (a get by id has it)  ", indexed), ("searchable (a search finds it)", searchable)):
        times.sort()
        print(f"      {what}  {times[len(times) // 2] * 1000:7.0f} ms  {times[-1] * 1000:7.0f} ms")
    print(f"      (what lies between the two is the index's refresh_interval, {interval[0] if interval else 'unknown'})", flush=True)


def follow(database, search, rowtide, writer):
    """A line every few seconds until Ctrl-C."""
    print("Ctrl-C ends it, and stops and removes all of it.", flush=True)
    while True:
        time.sleep(STATUS_SECONDS)
        rowtide.check()
        writer.check()
        rows, documents = int(database.run("SELECT count(*) FROM packages")[0]), search.count()
        print(f"      {time.strftime('%H:%M:%S')}  PostgreSQL {rows:,} rows  Elasticsearch {documents:,} documents  "
              f"changes written {writer.commits:,}  Rowtide {memory(rowtide)} MiB at most", flush=True)


def demonstrate(stack, once):
    folder = tempfile.mkdtemp(prefix="rowtide-demo.")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    # PostgreSQL does not run as root, and its user must be able to enter.
    os.chmod(folder, 0o711)
    step = Step(5, "start PostgreSQL and Elasticsearch")
    pg_port, pg_version = start_postgres(stack, folder)
    search, es_port, es_version = start_elasticsearch(stack, folder)
    step.done(f"PostgreSQL {pg_version} on 127.0.0.1:{pg_port}, Elasticsearch {es_version} on 127.0.0.1:{es_port}")
    step = Step(6, "load Debian's package index into PostgreSQL")
    rows = load(pg_port)
    database = Psql(pg_port, "cdc", "cdc", "demo")
    stack.callback(database.close)
    size = database.run("SELECT pg_size_pretty(pg_total_relation_size('packages'))")[0]
    step.done(f"{rows:,} rows, {size}")

    print("[7/8] rowtide run: backfill, then follow, while a writer changes rows", flush=True)
    names = database.run("SELECT package FROM packages ORDER BY package")
    # The last names are for the measurement: the writer does not delete them.
    probes, names = names[-500:], names[:-500]
    rowtide = start_rowtide(stack, folder, pg_port, es_port)
    speed = watch_backfill(rowtide, search, rows)
    print(f"      {rows:,} documents in the index: {speed:,.0f}/s, Rowtide's start included; "
          f"Rowtide took {memory(rowtide)} MiB at most", flush=True)
    writer = start_writer(stack, pg_port, names)
    show_queries(database, search)

    print(f"[8/8] measure, while the writer commits {WRITES_A_SECOND} changes a second", flush=True)
    measure(database, search, rowtide, probes)
    writer.check()
    writer.stop()
    rows, documents = settle(database, search, rowtide)
    compared, different = compare_sample(database, search)
    print(f"      after {writer.commits:,} changes: {rows:,} rows, {documents:,} documents; "
          f"{compared:,} rows drawn by chance and compared: {len(different)} different", flush=True)
    if rows != documents or different:
        raise Failed(f"the two sides are not the same; different: {', '.join(different[:10])}")
    if not once:
        follow(database, search, rowtide, start_writer(stack, pg_port, names))


def main():
    once = "--once" in sys.argv[1:] or not (sys.stdin.isatty() and sys.stdout.isatty())

    def interrupt(*_):
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    code = 0
    with contextlib.ExitStack() as stack:
        try:
            demonstrate(stack, once)
        except KeyboardInterrupt:
            print("\nstopping …", flush=True)
            code = 130 if once else 0
        except Failed as error:
            print(f"\ndemo: {error}", file=sys.stderr, flush=True)
            code = 1
        # To stop all takes a moment, and a second Ctrl-C may not cut it short: each of its waits has a limit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    print("everything that was started is stopped, and its data is removed", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
