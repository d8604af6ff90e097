#!/usr/bin/env bash
# The failover demo: three servers, the proxy and 30 logged-in users, all real processes and connections. The users count
# in their sessions by POST, each with the next click within 10 ms, while servers are killed with kill -9, one after the
# other, and started again with an empty memory. Says what happens at each step and checks it: no login, cart or count is
# lost, and no request fails but POSTs that were under way when their server died. Exits non-zero if anything differs.
# Needs bash, curl and python3, and leaves nothing behind.
#
#   demo/failover.sh                                  builds linchpin, and shows it for a minute
#   demo/failover.sh --seconds 10                     for ten seconds
#   LINCHPIN=/path/to/linchpin demo/failover.sh       shows that binary
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

seconds=60
case ${1:-} in
    --seconds) seconds=${2:-} ;;
    '') ;;
    *) seconds= ;;
esac
[[ $seconds =~ ^[1-9][0-9]{0,4}$ ]] || { echo "usage: demo/failover.sh [--seconds N]" >&2; exit 2; }

source "$here/processes.sh"
find_linchpin

step "Three servers start; each keeps logins, carts and counts in its own memory"
start_servers

step "Linchpin starts in front of them, with copies of their sessions"
start_linchpin <<'TOML'
[pools.health]
path = "/healthz"
interval = "500ms"
fall = 2
rise = 2
TOML
start_clients 30
ask wait a b c

step "30 users log in; the proxy pins each to the server that answered"
ask login
victim=$answer

step "All of them count without a break, for two seconds"
ask count
sleep 2
ask stayed

step "kill -9 for server $victim (process ${pid_of[$victim]}), while they go on"
ask dying "$victim"
crash "$victim"
sleep 2
ask moved

step "Server $victim is started again, with an empty memory"
start_server "$victim"
ask wait "$victim"
say "it is back at work: new users are sent to it, and nobody was moved back"

step "Servers are killed at random, one after the other, for $seconds seconds"
kills=1
end=$((SECONDS + seconds))
while ((SECONDS < end)); do
    victim=${servers[RANDOM % 3]}
    crash "$victim"
    kills=$((kills + 1))
    # Sometimes it is back before a probe or a client has noticed.
    sleep "0.$((RANDOM % 10))"
    start_server "$victim"
    # One is dead at a time.
    ask wait a b c
    sleep "0.$((RANDOM % 10))"
done
ask end "$kills"
say "$kills times kill -9; copies: $(copies)"

step "As it must be: servers died, and no session did"
