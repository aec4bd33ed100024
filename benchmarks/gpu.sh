#!/usr/bin/env bash
# Every figure that README and docs lack for want of a GPU, in under 8 minutes on one.
#
#     benchmarks/gpu.sh [DEVICE]        DEVICE: cuda unless given
#     SIZE=tiny benchmarks/gpu.sh cpu   a short run that only shows that the script works
#
# It prints a heading and the command before each table.
set -euo pipefail
cd "$(dirname "$0")/.."
device="${1:-cuda}"
python="${PYTHON:-.venv/bin/python}"
if [ "${SIZE:-full}" = tiny ]; then
  images=(--networks small --channels 8 --blocks 1 --batch-size 2 --rounds 1 --ways plain bfloat16)
  step=(--channels 8 --blocks 1 --batch-size 2 --rounds 1 --networks "DDPM++" --ways plain)
else
  images=(--channels 64 --blocks 4 --batch-size 64 --rounds 5)
  step=(--channels 64 --blocks 4 --batch-size 64 --rounds 5 --ways plain channels_last bf16)
fi

run() {
  echo
  echo "## $*"
  "$@"
}

"$python" -c 'import sys, torch; print("torch", torch.__version__, "on", sys.argv[1], torch.cuda.get_device_name() if torch.cuda.is_available() else "")' "$device"
run "$python" benchmarks/images_per_second.py --device "$device" "${images[@]}"   # docs/speed.md: images/s by option
run "$python" benchmarks/training_step.py --device "$device" "${step[@]}"          # docs/speed.md: time and memory of a step
run "$python" benchmarks/operations.py                                             # operations and waits, the same on any device
run "$python" benchmarks/likelihood_operations.py
