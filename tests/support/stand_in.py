"""In the place of main.py: leaves a record as Sacred does, and ends as it is told. A script of its own, quick to start.

STAND_IN: a JSON file with the composed configuration of each run's folder ("configs"), what its attempts do ("orders":
finish by default, crash, crash after: the record is complete; orphan: crash and leave a process behind), and the "port"
where each attempt reports, to be told there instead.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PINS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
KEEPER = """import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"orphan 0\\n")
print("connected", flush=True)
connection.recv(1)
"""


def main() -> int:
    setting = json.loads(Path(os.environ["STAND_IN"]).read_text())
    folder = next(word.partition("=")[2] for word in sys.argv if word.startswith("local_results_path="))
    config = setting["configs"][folder]
    task = Path(folder, "sacred", config["name"], config["env_args"]["key"])
    task.mkdir(parents=True, exist_ok=True)
    attempt = len(list(task.iterdir()))
    record = task / str(attempt + 1)
    record.mkdir()
    (record / "config.json").write_text(json.dumps(config))
    status = {
        "status": "RUNNING",
        "start_time": "2026-01-01T00:00:00",
        "pins": {key: os.environ.get(key) for key in PINS},
    }
    (record / "run.json").write_text(json.dumps(status))
    print("the stand-in speaks", flush=True)
    orders = setting["orders"].get(folder, [])
    order = orders[attempt] if attempt < len(orders) else "finish"
    if setting["port"]:
        with socket.create_connection(("127.0.0.1", setting["port"])) as told:
            told.sendall(f"{folder} {os.getpid()}\n".encode())
            order = told.makefile().readline().strip() or "crash"
    if order == "orphan":
        command = [sys.executable, "-c", KEEPER, str(setting["orphans"])]
        keeper = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert keeper.stdout is not None and keeper.stdout.readline()
        return 1
    if order == "crash":
        print("it went wrong here", file=sys.stderr)
        return 3
    (record / "info.json").write_text(json.dumps({"return_mean": [0.5], "return_mean_T": [config["t_max"]]}))
    done = status | {"status": "COMPLETED", "stop_time": "2026-01-01T00:00:02"}
    (record / "run.json").write_text(json.dumps(done))
    return 1 if order == "crash after" else 0


if __name__ == "__main__":
    sys.exit(main())
