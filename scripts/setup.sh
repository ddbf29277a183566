#!/usr/bin/env bash
# Make .venv and install everything into it: called by `make setup`, safe to repeat.
#
# Checks first, installs after: a missing Python, venv module or C++ compiler is named together with the command that
# mends it, before minutes are spent on a build that cannot succeed. Runs with the bash 3.2 that macOS ships.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*" >&2; }
fail() {
    printf '%s\n' "setup: $1" "       $2" >&2
    exit 2
}

# The command that installs something here, by its name for apt, dnf and brew.
install_command() {
    if [ "$(uname -s)" = Darwin ]; then
        printf '%s' "brew install $3"
    elif command -v apt-get >/dev/null 2>&1; then
        printf '%s' "sudo apt-get install -y $1"
    elif command -v dnf >/dev/null 2>&1; then
        printf '%s' "sudo dnf install -y $2"
    else
        printf '%s' "install $1 with your system's package manager"
    fi
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# A name on PATH may be a shim for a version that is not there, so each candidate is run, not only looked up.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if is_new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer ${PYTHON:+in PYTHON=$PYTHON }was found" \
        "Type: $(install_command python3 python3.11 python@3.12), or say where it is: make setup PYTHON=/path/to/python3"
}

check_venv_module() {
    "$1" -c 'import venv, ensurepip' >/dev/null 2>&1 && return
    fail "$1 cannot make virtual environments (its venv or ensurepip module is missing)" \
        "Type: $(install_command python3-venv python3-pip python@3.12)"
}

# llama-cpp-python is compiled here; macOS has a c++ on PATH even where no compiler is behind it, so compile something.
check_compiler() {
    local compiler
    for compiler in ${CXX:-c++ g++ clang++}; do
        if printf 'int main() { return 0; }\n' | "$compiler" -x c++ - -o /dev/null >/dev/null 2>&1; then
            return
        fi
    done
    if [ "$(uname -s)" = Darwin ]; then
        fail "no working C++ compiler, which llama-cpp-python is built with" "Type: xcode-select --install"
    fi
    fail "no working C++ compiler, which llama-cpp-python is built with" \
        "Type: $(install_command build-essential gcc-c++ llvm)"
}

has_llama_cpp() { [ -x .venv/bin/python ] && .venv/bin/python -c \
    'import importlib.metadata as m; m.version("llama-cpp-python")' >/dev/null 2>&1; }

started=$SECONDS
if [ -x .venv/bin/python ] && is_new_enough .venv/bin/python; then
    python=.venv/bin/python
else
    python=$(find_python)
    check_venv_module "$python"
    has_llama_cpp || check_compiler
    say "making .venv with $("$python" --version 2>&1) ($(command -v "$python"))"
    rm -rf .venv
    "$python" -m venv .venv
fi
has_llama_cpp || check_compiler
has_llama_cpp || say "installing; llama.cpp is compiled on the way, which takes 5 to 10 minutes on two cores"

# PIP_CONSTRAINT also reaches the environments that packages are built in; PIP_NO_INPUT keeps pip from waiting for answers.
export PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}"
log=.venv/setup.log
if ! .venv/bin/python -m pip install --progress-bar off -e '.[dev]' >"$log" 2>&1; then
    tail -40 "$log" >&2
    fail "pip could not install the dependencies" "The whole log: $log"
fi
say "done in $((SECONDS - started)) s ($(.venv/bin/python --version), $(.venv/bin/python -c \
    'import importlib.metadata as m; print(", ".join(f"{n} {m.version(n)}" for n in ("torch", "transformers", "llama-cpp-python")))'))"
