#!/usr/bin/env bash
# Every comparison with the peers, one after the other: benches/run.sh
#
# Tables that have their marks in benches/README.md are put there, those of the WebSockets are printed. Takes nearly
# two hours of a machine that does nothing else; a part of it is one of the commands below, with its own --help.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked
benches/peers/run.py --write benches/README.md
benches/peers/run.py --workers 2 --write benches/README.md
benches/peers/instructions.py --write benches/README.md
benches/peers/websocket.py
