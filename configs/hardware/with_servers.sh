#!/bin/bash
# bash configs/hardware/with_servers.sh 4,5,6,7 --config configs/webshop_qwen3_4b.yaml --config configs/hardware/eight_gpus.yaml
#
# Starts the vLLM servers of a configuration, one on each of the given GPUs, waits until they answer, trains with the same
# options, and ends the servers with the training. A signal is passed on to the training; before it has begun, the script
# ends. The output of the servers is in vllm-URL.log. MEMORY=0.6 lets a server take less of its GPU, for one that the
# trainer uses too.
set -u
devices=$1
shift
commands=$(hero_pl serve-command --devices "$devices" --memory "${MEMORY:-0.9}" "$@") || exit $?
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; wait "${servers[@]}" 2>/dev/null' EXIT
stop() { if [ -n "${training:-}" ]; then kill -TERM "$training" 2>/dev/null; else exit "$1"; fi; }
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 138' USR1
while read -r line; do
  case $line in
    "# "*) url=${line#"# "} url=${url%%: *} ;;
    *)
      log=vllm-$(echo "${url#*://}" | tr ':/' '__').log
      bash -c "exec env $line" >"$log" 2>&1 &
      servers+=($!)
      until curl -sf "$url/health" >/dev/null; do
        kill -0 "${servers[-1]}" 2>/dev/null || { echo "The server of $url has ended; see $log" >&2; exit 1; }
        sleep 1
      done
      ;;
  esac
done <<<"$commands"
hero_pl fit "$@" &
training=$!
wait "$training"
status=$?
if kill -0 "$training" 2>/dev/null; then # wait was interrupted by a signal, which the training got too
  wait "$training"
  status=$?
fi
exit $status
