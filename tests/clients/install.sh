#!/usr/bin/env bash
# Installs the client libraries that the tests drive the server with, into target/clients, by pip and npm. Needs python3
# with pip, and node with npm. Does nothing if they are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
clients=$PWD/target/clients
mkdir -p "$clients/python" "$clients/node"
PYTHONPATH=$clients/python python3 -c 'import redis' 2>/dev/null ||
    python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action ignore --target "$clients/python" 'redis>=5' </dev/null
[ -d "$clients/node/node_modules/ioredis" ] ||
    npm install --silent --no-audit --no-fund --prefix "$clients/node" 'ioredis@5' </dev/null
