# What .ci/run and .ci/nightly share. Sourced from the repository root.

step() { printf '\n==> %s (after %d s)\n' "$*" "$SECONDS"; }
fail() { printf 'ci: %s\n' "$*" >&2; exit 1; }

# Two threads, wherever this runs, so that times are comparable; no model hub in tests.
export OMP_NUM_THREADS=2 MKL_NUM_THREADS=2
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH VLV_MODEL

# A new virtual environment in a temporary folder, removed on exit, and activated.
fresh_environment() {
    local folder
    folder=$(mktemp -d)
    trap "rm -rf '$folder'" EXIT
    step "fresh virtual environment, $("${PYTHON:-python3}" --version)"
    "${PYTHON:-python3}" -m venv "$folder/venv"
    source "$folder/venv/bin/activate"
}

# Chromium for the tests of the web page; Debian's, where there is none.
chromium_installed() {
    command -v chromium > /dev/null && return
    apt-get update -qq && apt-get install -y -qq chromium
}

# Files of Debian packages, unpacked into a folder without being installed: downloaded, not kept.
unpacked_packages() {
    local folder=$1 downloads
    shift
    downloads=$(mktemp -d)
    mkdir -p "$folder"
    apt-get update -qq
    (cd "$downloads" && apt-get download -q "$@") || fail "cannot download $*"
    for package in "$downloads"/*.deb; do
        dpkg-deb -x "$package" "$folder"
    done
    rm -rf "$downloads"
}

# The one command in the fenced block of README.md under the line `<!-- command: NAME -->`.
readme_command() {
    local block
    block=$(awk -v mark="<!-- command: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }
    ' README.md)
    [ -n "$block" ] || fail "README.md has no fenced block under <!-- command: $1 -->"
    printf '%s' "$block"
}
