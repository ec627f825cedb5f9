"""Where the release binary has its admin endpoint when nobody says where: at 127.0.0.1:9192, and at no other address of the machine.

    address.py

In a network namespace of its own, so that the ports are free and the machine has an address to be reached at. COATI_BIN names another binary.
"""

import os
import pathlib
import socket
import subprocess
import sys
import urllib.request

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import broker

DEADLINE_SECONDS = 60
PORT = 9192
# Of a network for documentation: nobody's.
OUTER = "192.0.2.1"
LISTENS = "0A"


class Plain(broker.Broker):
    """Only what `more` says is given."""

    def __init__(self, *more):
        super().__init__("coati")
        self.more = more

    def coati_command(self):
        return [str(broker.COATI), "start", *self.more]


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def listening():
    """The addresses that somebody listens at on the port, as /proc/net writes them."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            address, port = local.split(":")
            if state == LISTENS and int(port, 16) == PORT:
                found.append(address)
    return found


def answers(host):
    with urllib.request.urlopen(f"http://{host}:{PORT}/healthz", timeout=DEADLINE_SECONDS) as answer:
        return answer.read() == b"ok\n"


def refuses(host):
    try:
        socket.create_connection((host, PORT), DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def it_is_this_machines_alone_when_nobody_says_where():
    with Plain():
        expect(answers("127.0.0.1"), "it is not there")
        expect(listening() == ["0100007F"], f"it listens at {listening()}")
        expect(refuses(OUTER), f"it is reached at {OUTER}")


def it_is_where_somebody_says():
    with Plain("-o", f"admin.listener={OUTER}:{PORT}"):
        expect(answers(OUTER), "it is not there")
        expect(refuses("127.0.0.1"), "it is somewhere else, too")


CHECKS = [it_is_this_machines_alone_when_nobody_says_where, it_is_where_somebody_says]


def inside():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{OUTER}/32", "dev", "lo"], check=True)
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            check()
            print(f"pass admin {name}", flush=True)
        except Exception as error:  # Whatever is wrong is a failure of its check.
            failed += 1
            print(f"FAIL admin {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


def main():
    if sys.argv[1:] == ["inside"]:
        return inside()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(["unshare", *user, "--net", "--fork", "--kill-child", sys.executable, __file__, "inside"]).returncode


if __name__ == "__main__":
    sys.exit(main())
