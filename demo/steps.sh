# Sourced by the demo scripts: messages, free ports, waiting for a process, and the end of all processes with the script.
# Needs $here, the folder of the script.

declare -A pid_of
servers=(a b c)
proxy_pid=
clients_pid=
folder=$(mktemp -d)

clean_up() {
    local status=$? name
    trap - EXIT
    if [[ $status -eq 1 ]]; then
        step "FAILED. What the servers and the proxy said last:"
        for name in "${servers[@]}" proxy; do
            tail -n 20 "$folder/$name.log" 2>/dev/null | sed "s/^/   $name | /" || true
        done
    fi
    # Stopped servers would not hear a gentler signal, and there is nothing to save.
    kill -9 ${clients_pid:+"$clients_pid"} ${proxy_pid:+"$proxy_pid"} "${pid_of[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
fail() { printf '   NOT AS IT MUST BE: %s\n' "$*"; exit 1; }

# find_linchpin: builds it, unless $LINCHPIN names a binary.
find_linchpin() {
    if [[ -z ${LINCHPIN:-} ]]; then
        step "Building linchpin"
        (cd "$here/.." && cargo build --release --bin linchpin)
        LINCHPIN=${CARGO_TARGET_DIR:-$here/../target}/release/linchpin
    fi
    [[ -x $LINCHPIN ]] || { echo "LINCHPIN=$LINCHPIN is no program; leave it unset to have it built" >&2; exit 2; }
}

# Ports below the range from which the system takes those of outgoing connections: a port must still be free when its
# server comes back.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    held.append(socket.socket())
    try:
        held[-1].bind(("127.0.0.1", random.randrange(10000, 30000)))
    except OSError:
        held.pop().close()
print(*(one.getsockname()[1] for one in held))
PYTHON
}

# until_answers URL PID: waits for a 200, as long as the process lives.
until_answers() {
    for _ in {1..1200}; do
        kill -0 "$2" 2>/dev/null || fail "the process that should answer at $1 has ended"
        curl --silent --fail --max-time 1 --output /dev/null "$1" && return
        sleep 0.025
    done
    fail "no answer from $1 in thirty seconds"
}
