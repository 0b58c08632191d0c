#!/usr/bin/env bash
# Started by the tests with a pipe as its input. When the pipe closes the test process is gone, however it ended:
# stop what it had started, politely, then by force, and remove its folders.
# Lines: "process PID SIGNAL" (INT, TERM, KILL) and "folder PATH".
set -u
pids=() births=() signals=() folders=()
# The start time tells a process from a later one with the same id.
birth() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null; }
while read -r what first second; do
  case $what in
    process) pids+=("$first") births+=("$(birth "$first")") signals+=("$second") ;;
    folder) folders+=("$first") ;;
  esac
done
alive() { [[ -n ${births[$1]} && $(birth "${pids[$1]}") == "${births[$1]}" ]]; }
signal_all() { # SIGNAL, or each one's own
  local index some=1
  for index in "${!pids[@]}"; do
    alive "$index" || continue
    some=0
    [[ -z ${1:-} ]] || kill "-$1" "${pids[$index]}" 2>/dev/null
  done
  return $some
}
for index in "${!pids[@]}"; do
  ! alive "$index" || kill "-${signals[$index]}" "${pids[$index]}" 2>/dev/null
done
for ((tenths = 0; tenths < 150; tenths++)); do
  signal_all || break
  sleep 0.1
done
signal_all KILL
((${#folders[@]} == 0)) || rm -rf -- "${folders[@]}"
