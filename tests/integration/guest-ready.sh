#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A service of the pod VM counts as started when it answers in its own protocol: asked of containerd's ttrpc server in Go, of the stand-in
# agent, and of Python's HTTP server. Usage: guest-ready.sh GUEST-READY TTRPC-GO STAND-IN-AGENT PAUSE
set -euo pipefail
guest_ready=$1 ttrpc_go=$2 agent=$3 pause=$4

dir=$(mktemp -d)
pids=()
cleanup() {
        kill "${pids[@]}" 2>/dev/null || :
        wait "${pids[@]}" || :
        rm -rf "$dir"
}
trap cleanup EXIT
failed=0

# case NAME COMMAND...
case_() {
        local name=$1
        shift
        if "$@" >"$dir/log" 2>&1; then echo "ok $name"; else echo "not ok $name"; sed 's/^/    /' "$dir/log"; failed=1; fi
}

# fails TEXT COMMAND...: with status 1, saying TEXT
fails() {
        local text=$1 status=0
        shift
        "$@" >"$dir/out" 2>&1 || status=$?
        cat "$dir/out"
        ((status == 1)) && grep -qF -- "$text" "$dir/out"
}

# serve SOCKET: a server in Go, which knows no service of ours; ends with this script
serve() {
        coproc SERVER { exec "$ttrpc_go" server "$1"; }
        pids+=("$SERVER_PID")
        read -r _ <&"${SERVER[0]}"              # "ready"
        exec {keep}>&"${SERVER[1]}"             # its standard input stays open
}

serve "$dir/hub.sock"
hub=${pids[-1]}

case_ "an answer that there is no such service is an answer" \
        "$guest_ready" --socket "$dir/hub.sock" confidential-data-hub
case_ "also of the attestation agent" \
        "$guest_ready" --socket "$dir/hub.sock" attestation-agent
case_ "but the agent must say that it serves" \
        fails "does not answer on '$dir/hub.sock'" "$guest_ready" --timeout 1s --socket "$dir/hub.sock" kata-agent
case_ "and what it said instead is told" grep -q "grpc.Health" "$dir/out"

"$agent" --listen "$dir/agent.sock" --pause "$pause" --cgroup-manager disabled --state-dir "$dir/state" --runtime-dir "$dir/runtime" \
        2>"$dir/agent.log" &
pids+=($!)
case_ "an agent that is just starting is waited for" \
        "$guest_ready" --socket "$dir/agent.sock" kata-agent

case_ "a socket that is not there is waited for, and the journal says so" \
        fails "Waiting until 'attestation-agent' answers on '$dir/none.sock', for 1.000s at most." \
        "$guest_ready" --timeout 1s --socket "$dir/none.sock" attestation-agent

python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); s.close()' "$dir/stale.sock"
case_ "the file of a socket that nobody serves is no answer" \
        fails "Connection refused" "$guest_ready" --timeout 1s --socket "$dir/stale.sock" confidential-data-hub

# Takes connections and says nothing
python3 -c '
import signal, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(64); print("ready", flush=True); signal.pause()' "$dir/silent.sock" >"$dir/silent" &
pids+=($!)
until grep -q ready "$dir/silent"; do sleep 0.05; done
case_ "a server that says nothing is no answer" \
        fails "does not answer on" "$guest_ready" --timeout 1s --socket "$dir/silent.sock" kata-agent

# The main process of the unit: the wait is over when it is.
true &
dead=$!
wait $dead
case_ "a service that has ended is not waited for" \
        fails "'attestation-agent' has ended before it answered" env MAINPID=$dead "$guest_ready" --timeout 1h --socket "$dir/none.sock" attestation-agent
sleep 1 &
case_ "a service that ends meanwhile is not waited for any longer" \
        fails "'attestation-agent' has ended before it answered" env MAINPID=$! "$guest_ready" --timeout 1h --socket "$dir/none.sock" attestation-agent
case_ "one that lives is" \
        env MAINPID="$hub" "$guest_ready" --socket "$dir/hub.sock" attestation-agent

mkdir "$dir/www"
python3 -u -c '
import functools, http.server, sys
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1]))
print(s.server_port, flush=True)
s.serve_forever()' "$dir/www" >"$dir/port" 2>/dev/null &
pids+=($!)
until [[ -s $dir/port ]]; do sleep 0.05; done
case_ "HTTP is asked of the REST server" \
        "$guest_ready" --socket "127.0.0.1:$(cat "$dir/port")" api-server-rest
case_ "what speaks ttrpc is no REST server, nor is a closed port" \
        fails "cannot connect" "$guest_ready" --timeout 1s --socket "127.0.0.1:1" api-server-rest

status=0
"$guest_ready" no-such-service 2>/dev/null || status=$?
case_ "an unknown service is a wrong command line" test $status = 2
exit $failed
