#!/usr/bin/env bash
# The failover demo: three servers, the proxy and 30 logged-in users, all real processes and connections. One server is
# killed with kill -9 while the users send requests, and started again. Says what happens at each step and checks it;
# exits non-zero if anything differs. Needs bash, curl and python3, takes some 12 seconds, and leaves nothing behind.
#
#   demo/failover.sh                                  builds linchpin and shows it
#   LINCHPIN=/path/to/linchpin demo/failover.sh       shows that binary
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

declare -A pid_of address_of
proxy_pid=
clients_pid=
folder=$(mktemp -d)

clean_up() {
    local status=$?
    trap - EXIT
    if [[ $status -eq 1 ]]; then
        step "FAILED. What the proxy said last:"
        tail -n 20 "$folder/proxy.log" 2>/dev/null | sed 's/^/   | /' || true
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
    for _ in {1..100}; do
        kill -0 "$2" 2>/dev/null || fail "the process that should answer at $1 has ended"
        curl --silent --fail --max-time 1 --output /dev/null "$1" && return
        sleep 0.1
    done
    fail "no answer from $1 in ten seconds"
}

start_server() {
    "$LINCHPIN" demo-backend --name "$1" --listen "${address_of[$1]}" >>"$folder/$1.log" 2>&1 &
    pid_of[$1]=$!
    # Its death is part of the show; bash need not report it.
    disown
    until_answers "http://${address_of[$1]}/healthz" "${pid_of[$1]}"
    say "server $1 listens on ${address_of[$1]} (process ${pid_of[$1]})"
}

# ask ORDER…: has the clients do something; their answer is left in $answer.
ask() {
    local verdict
    echo "$*" >&"${CLIENTS[1]}"
    read -r verdict answer <&"${CLIENTS[0]}" || verdict=failed
    [[ $verdict == ok ]] || exit 1
}

if [[ -z ${LINCHPIN:-} ]]; then
    step "Building linchpin"
    (cd "$here/.." && cargo build --release --bin linchpin)
    LINCHPIN=${CARGO_TARGET_DIR:-$here/../target}/release/linchpin
fi
[[ -x $LINCHPIN ]] || { echo "LINCHPIN=$LINCHPIN is no program; leave it unset to have it built" >&2; exit 2; }

step "Three servers start; each keeps logins and carts in its own memory"
read -r proxy_port a b c <<<"$(free_ports 4)"
address_of=([a]=127.0.0.1:$a [b]=127.0.0.1:$b [c]=127.0.0.1:$c)
for name in a b c; do start_server "$name"; done

step "Linchpin starts in front of them"
{
    cat <<TOML
[log]
access = "$folder/access.log"

[[listeners]]
address = "127.0.0.1:$proxy_port"

[[pools]]
name = "app"

[pools.health]
path = "/healthz"
interval = "500ms"
fall = 2
rise = 2
TOML
    for name in a b c; do
        printf '\n[[pools.backends]]\nname = "%s"\naddress = "%s"\n' "$name" "${address_of[$name]}"
    done
} >"$folder/linchpin.toml"
"$LINCHPIN" run -c "$folder/linchpin.toml" >"$folder/proxy.log" 2>&1 &
proxy_pid=$!
disown
until_answers "http://127.0.0.1:$proxy_port/healthz" "$proxy_pid"
say "one address for all three: http://127.0.0.1:$proxy_port (process $proxy_pid)"

# The clients answer through a pipe; what they have to say goes where this script's words go.
exec 4>&1
coproc CLIENTS { exec python3 "$here/failover_clients.py" "127.0.0.1:$proxy_port" 2>&4; }
clients_pid=$CLIENTS_PID
ask wait a b c

step "30 users log in; the proxy pins each to the server that answered"
ask login
victim=$answer

step "All of them send requests without a break, for two seconds"
ask browse
sleep 2
ask stayed

step "kill -9 for server $victim (process ${pid_of[$victim]}), while they go on"
ask dying "$victim"
kill -9 "${pid_of[$victim]}"
sleep 4
ask moved

step "Server $victim is started again, with an empty memory"
start_server "$victim"
ask wait "$victim"
say "it is back at work: new users are sent to it"
sleep 3
ask end

step "As it must be: the server died, its users moved once, nobody saw an error"
