# Sourced: `stage NAME COMMAND…` runs one stage and goes on if it fails, `finish` sums up on stderr and fails if any stage did.
stage_lines=()
stage_failures=0

stage() {
    local name=$1 began=$SECONDS verdict=ok
    shift
    echo "== $name" >&2
    "$@" || { verdict="FAILED (exit $?)"; stage_failures=$((stage_failures + 1)); }
    stage_lines+=("$(printf '%-14s %4ds  %s' "$name" $((SECONDS - began)) "$verdict")")
}

finish() {
    printf '%s\n' "== summary" "${stage_lines[@]}" >&2
    exit $((stage_failures > 0))
}
