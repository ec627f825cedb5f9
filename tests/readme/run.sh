#!/usr/bin/env bash
# Runs the commands of the README's first screen as a person pastes them: the broker in one shell, the first
# records in a second. In namespaces of their own, so that port 9092 and ./coati-data are free and nobody's.
# Prints `pass NAME` or `FAIL NAME`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "${1:-}" != inside ]; then
    data=$(mktemp -d) made=
    trap 'rm -rf "$data" "$data.log"; [ -z "$made" ] || rmdir coati-data' EXIT
    [ -d coati-data ] || { mkdir coati-data && made=yes; } || exit 1
    user=(--user --map-root-user)
    [ "$(id -u)" -ne 0 ] || user=()
    unshare "${user[@]}" --net --mount --fork --kill-child bash tests/readme/run.sh inside "$data"
    exit
fi

mount --bind "$2" coati-data && ip link set lo up || { echo "FAIL namespaces of the README's commands"; exit 1; }

# block WORD: the README's shell block that contains WORD.
block() {
    awk -v word="$1" '/^```sh/ { text = ""; inside = 1; next } /^```/ { if (inside && index(text, word)) printf "%s", text; inside = 0 } inside { text = text $0 "\n" }' README.md
}

# verdict NAME CONDITION…
verdict() {
    local name=$1
    shift
    if "$@"; then echo "pass $name"; else echo "FAIL $name"; fi
}

log=$2.log
bash -c "$(block '-- start')" >"$log" 2>&1 &
broker=$!
for _ in $(seq 3000); do
    grep -q 'Kafka Server started' "$log" && break
    kill -0 $broker 2>/dev/null || break
    sleep 0.1
done
verdict "README: the broker starts" grep -q 'Kafka Server started' "$log"
records=$(bash -O expand_aliases -c "$(block 'coati produce')" 2>&1)
verdict "README: the first records come back" [ "$(tail -n 3 <<<"$records" | grep -c '^hello ')" -eq 3 ]
kcat=$(bash -c "$(grep -o '`kcat [^`]*`' README.md | tr -d '`')" 2>/dev/null | grep -c '^hello ')
verdict "README: kcat reads all 1000 of them" [ "$kcat" -eq 1000 ]
kill -TERM $broker # Cargo has become the broker.
wait $broker
verdict "README: a signal stops it cleanly" [ $? -eq 0 ]
