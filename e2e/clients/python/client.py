"""An application that finds its Redis by Sentinel with redis-py, and appends until it is told to stop.

Each value is tried until it is acknowledged: what redis-py makes of a failover is all that is between. A report of one line of JSON is the
end; e2e/clients/go/main.go is its twin, with the same arguments and the same report.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

# An address that nobody serves any more may never answer.
PATIENCE = 2.0
# Between two attempts, and between two values.
PAUSE = 0.005
# How long a replica may take to acknowledge one write, in milliseconds.
WAIT = 500
# Errors that the report quotes.
QUOTED = 5

stop = threading.Event()


class Counted:
    """Connections that were opened and logged in."""

    count = 0

    def connect_to(self, address):
        super().connect_to(address)
        Counted.count += 1


class PlainConnection(Counted, SentinelManagedConnection):
    pass


class TlsConnection(Counted, SentinelManagedSSLConnection):
    pass


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentinels", required=True, help="HOST:PORT,...")
    parser.add_argument("--master", required=True, help="name of the master")
    parser.add_argument("--user", help="account in Redis and at the sentinels")
    parser.add_argument("--password-file", help="file with its password; none: no login")
    parser.add_argument("--ca", help="file with the CA; none: no TLS")
    parser.add_argument("--key", default="ledger", help="list to append to")
    parser.add_argument("--acks", type=int, default=0, help="replicas that have to acknowledge each write")
    parser.add_argument("--seconds", type=float, default=0, help="how long; 0: until SIGTERM")
    parser.add_argument("--acknowledged", required=True, help="file to write acknowledged values to")
    return parser.parse_args()


def options(args):
    """How to connect, to a sentinel as to the master."""
    chosen = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    # Each value is tried again below, where it is counted.
    chosen["retry"] = Retry(NoBackoff(), 0)
    if args.password_file:
        with open(args.password_file, encoding="utf-8") as file:
            chosen.update(username=args.user, password=file.read())
    if args.ca:
        chosen.update(ssl=True, ssl_ca_certs=args.ca, ssl_check_hostname=True)
    return chosen


def write(client, args, value):
    """One connection carries all three: WAIT speaks of the writes of its own connection."""
    pipe = client.pipeline(transaction=False)
    pipe.rpush(args.key, value)
    pipe.incr(args.key + ":count")
    if args.acks:
        pipe.execute_command("WAIT", args.acks, WAIT)
    answers = pipe.execute()
    if args.acks and answers[-1] < args.acks:
        raise redis.RedisError(f"acknowledged by {answers[-1]} of {args.acks} replicas")


def listen(address, chosen, heard, lock):
    """Hears what one sentinel publishes, for as long as it lives."""
    host, port = address
    while not stop.is_set():
        try:
            client = redis.Redis(host=host, port=port, **chosen)
            pubsub = client.pubsub(ignore_subscribe_messages=True)
            pubsub.subscribe("+switch-master")
            while not stop.is_set():
                message = pubsub.get_message(timeout=0.2)
                if message is None:
                    continue
                payload = message["data"].decode()
                with lock:
                    # Every sentinel tells the same.
                    if not heard or heard[-1] != payload:
                        heard.append(payload)
        except (redis.RedisError, OSError):
            stop.wait(PAUSE * 20)


def main():
    args = arguments()
    chosen = options(args)
    addresses = [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in args.sentinels.split(","))]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if args.seconds:
        timer = threading.Timer(args.seconds, stop.set)
        timer.daemon = True
        timer.start()

    heard, lock = [], threading.Lock()
    for address in addresses:
        threading.Thread(target=listen, args=(address, chosen, heard, lock), daemon=True).start()

    sentinel = Sentinel(addresses, sentinel_kwargs=chosen)
    master = {key: value for key, value in chosen.items() if key != "ssl"}
    connection = TlsConnection if args.ca else PlainConnection
    client = sentinel.master_for(args.master, connection_class=connection, **master)

    acknowledged, attempts, longest, errors = 0, 0, 0.0, []
    last, number = time.monotonic(), 0
    # Line by line: others read it meanwhile.
    with open(args.acknowledged, "w", buffering=1, encoding="utf-8") as values:
        while not stop.is_set():
            value = f"py-{os.getpid()}-{number}"
            number += 1
            while not stop.is_set():
                attempts += 1
                try:
                    write(client, args, value)
                except (redis.RedisError, OSError) as error:
                    text = f"{type(error).__name__}: {error}"
                    if len(errors) < QUOTED and text not in errors:
                        errors.append(text)
                    time.sleep(PAUSE)
                    continue
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                acknowledged += 1
                values.write(value + "\n")
                break
            time.sleep(PAUSE)
    # A client that was shut out at the end has a gap as well.
    longest = max(longest, time.monotonic() - last)
    with lock:
        switches = list(heard)
    report = {
        "client": f"redis-py {redis.__version__}",
        "acknowledged": acknowledged,
        "attempts": attempts,
        "longest_gap_ms": int(longest * 1000),
        "reconnects": max(0, Counted.count - 1),
        "switches": switches,
        "errors": errors,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
