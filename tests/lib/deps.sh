# What the suites need beside Rust, installed into tests/.deps or, for a missing program, by apt.
# Sourced by tests/run. Every function returns non-zero, with a reason, when the thing cannot be had.

# need_rust_component NAME…: cargo's own tools, by rustup where they are missing.
need_rust_component() {
    local component
    for component in "$@"; do
        case $component in
            rustfmt) cargo fmt --version >/dev/null 2>&1 && continue ;;
            clippy) cargo clippy --version >/dev/null 2>&1 && continue ;;
        esac
        rustup component add "$component" || { echo "FAIL missing: $component"; return 1; }
    done
}

# as_root COMMAND…: directly as root, else by sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# need_program PROGRAM PACKAGE…: the program is there, or Debian's packages bring it.
need_program() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return 0
    [ -n "${APT_UPDATED:-}" ] || as_root apt-get update -qq || { echo "FAIL missing: $program, and apt-get update failed"; return 1; }
    APT_UPDATED=1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    command -v "$program" >/dev/null || { echo "FAIL missing: $program (apt package $*)"; return 1; }
}
