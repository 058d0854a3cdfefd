#!/usr/bin/env bash
# Check nasframe on a device: tests/device_check.sh cpu, or cuda, or cuda:1. It takes at most five minutes.
# The output is Markdown, with the name of the device; docs/measurements/devices.md collects it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3
exec timeout 300 "$PYTHON" tests/device_check.py "${1:?give a device, such as cpu or cuda}"
