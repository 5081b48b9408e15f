#!/usr/bin/env bash
# Damages the files of stopped nodes at random (flips, zeros, random bytes, cuts, additions, deletions, other names, files
# and folders of another shard, another node, or last week), and judges what the nodes do: every acknowledged value, or a
# refusal or an error that names the damage. Prints the seed and a table.
# rot.sh [DAMAGES [SEED]]; ROT_FIRST=N begins at the damage N, ROT_SWEEP=N flips each Nth bit of the small files first, and
# bits all over a table and the log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export ROT_DAMAGES=${1:-3000} ROT_SEED=${2:-$(date +%s)}
if [ -n "${ROT_SWEEP:-}" ]; then
    cargo test --quiet --test rot -- --nocapture every_bit
fi
cargo test --quiet --test rot -- --nocapture damaged_files
