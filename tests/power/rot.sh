#!/usr/bin/env bash
# Damages the files of stopped nodes at random (flips, zeros, random bytes, cuts, additions, deletions, other names, files
# and folders of another shard, another node, or last week), and judges what the nodes do: every acknowledged value, or a
# refusal or an error that names the damage. Prints the seed and a table.
# rot.sh [DAMAGES [SEED]]; ROT_FIRST=N begins at the damage N, with ROT_SWEEP=N each bit of a log, a table, a
# version file and an identity is flipped first, and each Nth bit of all files of two nodes with a handful of keys.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export ROT_DAMAGES=${1:-3000} ROT_SEED=${2:-$(date +%s)}
# With --workspace it is what `cargo test --workspace` builds, and nothing more.
if [ -n "${ROT_SWEEP:-}" ]; then
    EVERY_BIT=1 cargo test --quiet --workspace --test damage -- any_flipped
    EVERY_BIT=1 cargo test --quiet -p corduroy --lib -- no_flipped
    cargo test --quiet --workspace --test rot -- --nocapture every_bit
fi
cargo test --quiet --workspace --test rot -- --nocapture damaged_files
