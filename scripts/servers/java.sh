# shellcheck shell=bash
# java.sh: sourced. find_java MIN sets JAVA (a JDK's folder) and JAVA_V (its major version),
# or returns 1 when there is none.
# The lowest JDK that is new enough is taken: the one a server was released for is the one it was tested on.
find_java() {
  local min=$1 best='' best_version=999 home version
  for home in "${JAVA_HOME:-}" /usr/lib/jvm/*; do
    # A JRE has no javac, and the launcher of the search servers is compiled here.
    [[ -n $home && -x $home/bin/javac && -r $home/release ]] || continue
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release")
    if ((${version:-0} >= min && version < best_version)); then
      best=$home best_version=$version
    fi
  done
  [[ -n $best ]] || return 1
  # shellcheck disable=SC2034 # both are the result
  JAVA=$best JAVA_V=$best_version
}
