#!/usr/bin/env bash
# Chaos with session copies: three servers that keep sessions in their own memory, Linchpin in front of them, and 100 users
# who count in their sessions on two connections each. Servers are killed, restarted faster than any probe, restarted
# while nobody looks, stopped and continued, and drained, and users log out and in while this goes on. No session may be
# lost, no count may be below what its client was told, nothing may run twice, and no session that has ended may come back.
# Prints how many of everything it did, and exits non-zero if anything differs. Needs bash, curl and python3, and leaves
# nothing behind.
#
#   demo/chaos.sh                                  builds linchpin, and runs for five minutes
#   demo/chaos.sh --minutes 60                     for an hour
#   demo/chaos.sh --seconds 30                     for half a minute
#   LINCHPIN=/path/to/linchpin demo/chaos.sh       runs that binary
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

seconds=300
case ${1:-} in
    --minutes) [[ ${2:-} =~ ^[1-9][0-9]{0,3}$ ]] && seconds=$((60 * $2)) || seconds= ;;
    --seconds) seconds=${2:-} ;;
    '') ;;
    *) seconds= ;;
esac
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] || { echo "usage: demo/chaos.sh [--minutes N | --seconds N]" >&2; exit 2; }

source "$here/processes.sh"
find_linchpin

step "Three servers and Linchpin start; it probes every five seconds, and moves the sessions of a drained server"
start_servers
start_linchpin <<'TOML'
[pools.persistence]
on = { draining = "move" }

[pools.health]
path = "/healthz"
interval = "5s"
fall = 1
rise = 1

[pools.ejection]
base_time = "1s"

[pools.timeouts]
response = "2s"
TOML
start_clients 100
ask wait a b c

# revive SERVER: starts it again, and waits until new clients are sent to it: one server is dead at a time.
revive() {
    start_server "$1"
    ask wait a b c
}

# drain SERVER: gives it no new sessions, and moves those that it has.
drain() {
    local others=() name
    for name in "${servers[@]}"; do [[ $name == "$1" ]] || others+=("$name"); done
    ready_servers "${others[@]}"
}

# undrain: makes all servers ready, and waits until new clients are sent to each.
undrain() {
    ready_servers "${servers[@]}"
    ask wait a b c
}

# for_its_share: whether this part's share of the time is not over; its first call begins it.
part_ends=
for_its_share() {
    [[ -n $part_ends ]] || part_ends=$((SECONDS + (seconds + 5) / 6))
    ((SECONDS < part_ends)) || { part_ends=; return 1; }
}

pick() { victim=${servers[RANDOM % 3]}; }

step "kill -9 of random servers, which start again after up to a second"
ask login
ask count 2
kills=0
while for_its_share; do
    pick
    crash "$victim"
    kills=$((kills + 1))
    sleep "0.$((RANDOM % 10))"
    revive "$victim"
    sleep "0.$((RANDOM % 10))"
done
ask end "$kills"
say "$kills times kill -9"

step "kill -9 and a restart on the same port at once, faster than any probe"
ask login
ask count 2
restarts=0
while for_its_share; do
    pick
    crash "$victim"
    revive "$victim"
    restarts=$((restarts + 1))
    sleep "0.$((RANDOM % 5))"
done
ask end "$restarts"
say "$restarts restarts"

step "A restart while nobody clicks: the server has forgotten everything, and asks for the copies"
ask login
# Nothing is under way when the server dies, so no request may fail.
ask count 2 none
wants=$(copies wants) forgets=0
while for_its_share; do
    sleep "0.$((RANDOM % 5))"
    pick
    ask pause
    crash "$victim"
    start_server "$victim"
    # By then Linchpin knows that its connections were closed.
    sleep 0.3
    ask resume
    forgets=$((forgets + 1))
done
ask end 0
wants=$(($(copies wants) - wants))
((wants > 0)) || fail "$forgets servers have forgotten their sessions, and none asked for a copy"
say "$forgets restarts, after which $wants requests found a server that asked for the copy"

step "SIGSTOP for a server; its users go on elsewhere; SIGCONT, and another server is killed"
ask login
# A POST that a stopped server does not answer is a 504, and its fate as unknown as that of a dead server's.
ask count 2 502 504
stops=0
while for_its_share; do
    pick
    stopped=$victim
    kill -STOP "${pid_of[$stopped]}"
    sleep 3
    kill -CONT "${pid_of[$stopped]}"
    ask wait a b c
    while [[ $victim == "$stopped" ]]; do pick; done
    sleep "0.$((RANDOM % 10))"
    crash "$victim"
    sleep 0.5
    revive "$victim"
    stops=$((stops + 1))
done
ask end "$((stops * 2))"
say "$stops times SIGSTOP, SIGCONT and kill -9 of another"

step "Users log out, and in anew, while slow requests of theirs are under way and a server is killed that others have left"
races=0 ended=0 left=0 drains=0
while for_its_share; do
    for ending in logout login; do
        ask login
        # Sessions that leave a living server end there: nobody finds them there with an old cookie.
        pick
        drain "$victim"
        ask leave "$victim"
        drains=$((drains + 1)) left=$((left + answer))
        undrain
        ask race "$ending"
        sleep "0.$((RANDOM % 4))"
        pick
        crash "$victim"
        ask raced
        races=$((races + 1)) ended=$((ended + answer))
        revive "$victim"
    done
done
say "$ended sessions ended in $races rounds, each with a kill -9, $left of them after their server was drained; none came back"

step "Servers are drained and made ready again, while everybody counts"
ask login
# No server dies, so no request may fail.
ask count 2 none
loaded=0
while for_its_share; do
    pick
    drain "$victim"
    sleep "0.$((6 + RANDOM % 4))"
    undrain
    loaded=$((loaded + 1))
done
ask end 0
((answer < 10500)) || fail "a request waited for $answer ms, and handover is 10s"
say "$loaded drains"

ask sum
step "As it must be, after $((kills + restarts + stops + races)) times kill -9, $((restarts + forgets)) instant restarts,
   $stops times SIGSTOP and SIGCONT, $((drains + loaded)) drains and $races races. Copies: $(copies)"
