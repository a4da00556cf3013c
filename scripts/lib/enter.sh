# Sourced by the scripts people run: sets up what is missing, goes to the root, puts the tools on PATH.
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." || exit 1
python=$(command -v python3 || command -v python) || { echo "setup: no Python: install Python 3.11 or later" >&2; exit 1; }
"$python" scripts/lib/setup.py || exit 1
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH python
unset PYTHONDONTWRITEBYTECODE # the tests start a hundred processes: compiling everything each time doubles what a start costs
export PATH="$PWD/.venv/bin:$PWD/.setup/bin:$PATH"
