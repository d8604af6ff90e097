# Sourced by failover.sh and chaos.sh: three demo servers, Linchpin in front of them, and the clients, all as processes.
# Whatever happens, they end with the script.

source "$here/steps.sh"
declare -A address_of
# The secret that seals the copies of sessions. All servers of a shop have the same.
LINCHPIN_DEMO_COPIES_SECRET=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export LINCHPIN_DEMO_COPIES_SECRET

start_server() {
    "$LINCHPIN" demo-backend --name "$1" --listen "${address_of[$1]}" >>"$folder/$1.log" 2>&1 &
    pid_of[$1]=$!
    # Its death is part of the show; bash need not report it.
    disown
    until_answers "http://${address_of[$1]}/healthz" "${pid_of[$1]}"
}

# crash SERVER: kill -9, and waits until its port is free.
crash() {
    local state
    kill -9 "${pid_of[$1]}"
    while read -r _ _ state _ 2>/dev/null <"/proc/${pid_of[$1]}/stat" && [[ $state != Z ]]; do sleep 0.002; done
}

# start_servers: three of them, at addresses that they keep.
start_servers() {
    local a b c name
    read -r proxy_port admin_port a b c <<<"$(free_ports 5)"
    address_of=([a]=127.0.0.1:$a [b]=127.0.0.1:$b [c]=127.0.0.1:$c)
    for name in "${servers[@]}"; do
        start_server "$name"
        say "server $name listens on ${address_of[$name]} (process ${pid_of[$name]})"
    done
}

# start_linchpin: reads more tables of the pool from standard input.
start_linchpin() {
    ready_servers "${servers[@]}"
    {
        cat <<TOML
[log]
access = "off"

[admin]
address = "127.0.0.1:$admin_port"

[[listeners]]
address = "127.0.0.1:$proxy_port"

[[pools]]
name = "app"

# On a machine with other work, a server may well be slow for longer than the default of 2s.
[pools.copies]
handover = "10s"

TOML
        printf '[[pools.discover]]\nfile = "servers.txt"\n\n'
        cat
    } >"$folder/linchpin.toml"
    "$LINCHPIN" run -c "$folder/linchpin.toml" >"$folder/proxy.log" 2>&1 &
    proxy_pid=$!
    disown
    until_answers "http://127.0.0.1:$proxy_port/healthz" "$proxy_pid"
    say "one address for all three: http://127.0.0.1:$proxy_port (process $proxy_pid)"
}

# start_clients NUMBER: they answer through a pipe; what they have to say goes where this script's words go.
start_clients() {
    exec 4>&1
    coproc CLIENTS { exec python3 "$here/clients.py" "127.0.0.1:$proxy_port" "$1" 2>&4; }
    clients_pid=$CLIENTS_PID
}

# ask ORDER…: has the clients do something; their answer is left in $answer.
ask() {
    local verdict
    echo "$*" >&"${CLIENTS[1]}"
    read -r verdict answer <&"${CLIENTS[0]}" || verdict=failed
    if [[ $verdict != ok ]]; then
        say "copies so far: $(copies)"
        grep -o 'reason="[a-z_]*" unsaid=.*' "$folder/proxy.log" | sort | uniq -c | sed 's/^/   /' || true
        exit 1
    fi
}

# ready_servers SERVER…: has Linchpin drain all others. It reads the file twice a second.
ready_servers() {
    local name
    for name in "$@"; do printf '%s %s\n' "$name" "${address_of[$name]}"; done >"$folder/servers.new"
    mv "$folder/servers.new" "$folder/servers.txt"
}

# copies [KEY]: what Linchpin has counted of copies so far, or one of these counts.
copies() {
    curl --silent --fail --max-time 5 "http://127.0.0.1:$admin_port/api/v1/status" | python3 -c '
import json, sys
copies = json.load(sys.stdin)["pools"][0]["copies"]
if sys.argv[1:]:
    print(copies[sys.argv[1]])
else:
    refused = ", ".join(f"{count} {reason}" for reason, count in copies["refused"].items()) or "none"
    words = (("saves", "saved"), ("gives", "given"), ("wants", "wanted"), ("drops", "dropped"), ("evicted", "evicted"))
    counts = ", ".join(f"{copies[key]} {word}" for key, word in words)
    print(f"{counts}; refused: {refused}")
' "$@"
}
