# What the scripts/bench-* have in common. They source it once they have read their arguments; it goes to
# the repository's root, builds the release binaries into $bin and makes a directory $work, which goes
# with the script, as do the processes that it has in the background.
# shellcheck shell=bash
set -euo pipefail

bench=${0##*/}

# needs TOOL...
needs() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$bench: needs $tool" >&2; exit 69; }
    done
}
needs jq

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
cargo build --release --locked --quiet --bins
# shellcheck disable=SC2034 # for those who source this
bin=${CARGO_TARGET_DIR:-target}/release
ulimit -n "$(ulimit -Hn)"
work=$(mktemp -d)
finish() {
    local pid
    for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    echo "$bench: no free port" >&2
    return 1
}

# until_it_listens PORT PID [LOG]: the process, whose words are in LOG, $work/server.log if none is named
until_it_listens() {
    local log=${3:-$work/server.log}
    for _ in {1..300}; do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    echo "$bench: the server did not start:" >&2
    tail -n 5 "$log" >&2
    return 1
}

# stop PID: at once
stop() {
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# of NAME FILTER: from the report $work/NAME.json
of() { jq -r "$2" "$work/$1.json"; }
median() { sort -g | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
spread() { sort -g | awk 'NR==1 {low=$1} {high=$1} END {print low "–" high}'; }

# The first lines of every report.
load_before=$(cut -d' ' -f1,2 /proc/loadavg)
machine() {
    local cpu
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    echo "- $(date -u +%F), kernel $(uname -r), ${cpu:-unknown CPU}, $(nproc --all) cores"
    echo "- revision $(git describe --always --dirty 2>/dev/null || echo unknown); load average of the" \
        "machine before: $load_before (much above 0: others were at work)"
}

# save FILE [AS]: among the dated results
save() {
    local directory
    directory=benches/results/$(date -u +%F)-${BENCH_HOST_KIND:-$(uname -m)-$(nproc --all)-cores}
    mkdir -p "$directory"
    cp "$1" "$directory/${2:-${1##*/}}"
    echo "saved to $directory/${2:-${1##*/}}"
}
