# Sourced: `stage NAME COMMAND…` runs one stage and goes on if it fails, `finish` sums up on stderr and fails if any stage did.
# `beside COMMAND…` runs it in the background, in what the stages leave of the machine; `stage NAME join` waits for it.
stage_lines=()
stage_failures=0

stage() {
    local name=$1 began=$SECONDS verdict=ok
    shift
    echo "== $name" >&2
    "$@" || { verdict="FAILED (exit $?)"; stage_failures=$((stage_failures + 1)); }
    stage_lines+=("$(printf '%-14s %4ds  %s' "$name" $((SECONDS - began)) "$verdict")")
}

beside() {
    beside_log=$(mktemp)
    set -m # a group of its own, that ends with this script
    (renice -n 19 -p "$BASHPID" > /dev/null; set +m; "$@") > "$beside_log" 2>&1 &
    beside_pid=$!
    set +m
    trap 'kill -- "-$beside_pid" 2> /dev/null; rm -f -- "$beside_log"' EXIT
}

join() {
    local code=0
    wait "$beside_pid" || code=$?
    cat -- "$beside_log" >&2
    return "$code"
}

finish() {
    printf '%s\n' "== summary" "${stage_lines[@]}" >&2
    exit $((stage_failures > 0))
}
