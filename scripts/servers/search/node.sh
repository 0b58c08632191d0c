# shellcheck shell=bash disable=SC2154,SC2164 # the sourcing script sets `set -e` and what is described here
# node.sh: sourced by start-es*.sh and start-os*.sh, which set name, version, engine (elasticsearch|opensearch),
# java_min, server (Maven coordinates), modules (lines of name|class|coordinate|extends|exclusions) and jvm (arguments);
# and where they need it: archives (coordinates of zips), after_layout and before_start (functions).
#
#   start-X.sh PORT DATADIR [setting=value...]     HTTP on 127.0.0.1:PORT, transport on PORT+100 (PORT-100 above 65435)
#
# A later setting wins, so node.name=... renames the node. With discovery.seed_hosts=HOST:TRANSPORT,... (and, at the first
# start, cluster.initial_master_nodes=NAME,...) it is one node of a cluster, else it is alone.
#
#   PROVISION_ONLY=1     only fetch into the cache
#   HEAP=512m            the JVM's heap; the process takes 300 MiB idle and 650 MiB after load
#   STOP_WITH_PARENT=1   stop when the thread that started this script ends, however it ends
#   ROWTIDE_SERVERS      the cache, default ~/.cache/rowtide-servers
#   JAVA_HOME            a JDK to consider besides those in /usr/lib/jvm
#
# There is no tarball of these servers in any package registry, but Maven has their jars. They are laid out as the
# tarball would be (lib/, modules/) and started by a small launcher (SearchNode.java) in place of the
# server's own: that one refuses root, a small machine and a missing security manager.
# Stop it with SIGTERM to this process. Ready means that a request succeeds (GET / answers 200).
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"
  sed -n '/^#   start-X/,/^here=/{/^here=/d;s/^# \{0,1\}//;p}' "$here/node.sh"
}
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit 0
fi
(($# >= 2)) || [[ -n ${PROVISION_ONLY:-} ]] || { usage >&2; exit 2; }
port=${1:-} data=${2:-}
shift $(($# < 2 ? $# : 2))
cache=${ROWTIDE_SERVERS:-$HOME/.cache/rowtide-servers}
home=$cache/$name-$version
# shellcheck source=scripts/servers/java.sh
. "$here/../java.sh"
find_java "$java_min" || {
  echo "$name $version needs a JDK $java_min or later: set JAVA_HOME to one, or put it into /usr/lib/jvm" \
    "(scripts/servers/install brings 17 and no later one)" >&2
  exit 1
}

# Maven resolves each unit (the server, each module) by itself, as one reactor: one start of Maven.
# write_pom UNIT EXCLUSIONS COORDINATE...: exclusions are group:artifact,...; a coordinate may end in :zip.
write_pom() {
  local unit=$1 group artifact release kind coordinate exclusion exclusions=''
  for exclusion in ${2//,/ }; do
    exclusions+="<exclusion><groupId>${exclusion%%:*}</groupId><artifactId>${exclusion#*:}</artifactId></exclusion>"
  done
  shift 2
  mkdir -p "$build/$unit"
  {
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo "<groupId>rowtide.servers</groupId><artifactId>$unit</artifactId><version>1</version><packaging>pom</packaging><dependencies>"
    for coordinate in "$@"; do
      IFS=: read -r group artifact release kind <<<"$coordinate"
      echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$release</version>" \
        "<type>${kind:-jar}</type><exclusions>$exclusions</exclusions></dependency>"
    done
    echo '</dependencies></project>'
  } >"$build/$unit/pom.xml"
}

fetch_jars() {
  local module class coordinate extended exclusions units='<module>server</module>'
  write_pom server '' "${server[@]}"
  while IFS='|' read -r module class coordinate extended exclusions; do
    [[ -n $coordinate ]] || continue
    write_pom "$module" "$exclusions" "$coordinate"
    units+="<module>$module</module>"
  done <<<"$modules"
  for coordinate in ${archives[@]+"${archives[@]}"}; do
    write_pom archives '*:*' "$coordinate:zip"
    units+='<module>archives</module>'
  done
  echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>' \
    '<groupId>rowtide.servers</groupId><artifactId>all</artifactId><version>1</version><packaging>pom</packaging>' \
    "<modules>$units</modules></project>" >"$build/pom.xml"
  # shellcheck disable=SC2016 # Maven's variable, not the shell's
  mvn -B -q -Dstyle.color=never -f "$build/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime '-DoutputDirectory=${project.basedir}/jars' </dev/null >&2
}

# A module's folder must not repeat a jar of lib/ nor of the module that it extends: the server calls it jar hell.
lay_out_module() {
  local module=$1 class=$2 coordinate=$3 extended=$4 folder=$fresh/modules/$1 jar
  mkdir -p "$folder"
  if [[ -z $coordinate ]]; then
    # A line that is marked with another major version is not for this one.
    mkdir -p "$build/$module-source"
    sed "/^ *\/\*\* only ${version%%.*} \*\*\//b;/^ *\/\*\* only /d" "$here/${class##*.}.java" >"$build/$module-source/${class##*.}.java"
    "$JAVA/bin/javac" -nowarn -proc:none -cp "$fresh/lib/*" -d "$build/$module-classes" "$build/$module-source/${class##*.}.java"
    "$JAVA/bin/jar" cf "$folder/$module.jar" -C "$build/$module-classes" .
  else
    for jar in "$build/$module"/jars/*.jar; do
      [[ -e $fresh/lib/${jar##*/} || (-n $extended && -e $fresh/modules/$extended/${jar##*/}) ]] || mv "$jar" "$folder/"
    done
    # From 8.19 on Elasticsearch ships the descriptor inside the jar.
    for jar in "$folder"/*"$version"*.jar; do
      unzip -q -p "$jar" "META-INF/es-plugins/$module/plugin-descriptor.properties" 2>/dev/null || true
    done >"$folder/plugin-descriptor.properties"
    [[ ! -s $folder/plugin-descriptor.properties ]] || return 0
  fi
  printf '%s\n' "description=$module" "version=$version" "name=$module" "classname=$class" "java.version=$java_min" \
    "$engine.version=$version" "extended.plugins=$extended" has.native.controller=false \
    >"$folder/plugin-descriptor.properties"
}

provision() {
  local fresh build module class coordinate extended exclusions library archive
  fresh=$(mktemp -d "$cache/$name-$version.XXXX")
  build=$fresh/build
  mkdir -p "$build" "$fresh/lib" "$fresh/modules" "$fresh/plugins"
  fetch_jars
  mv "$build"/server/jars/*.jar "$fresh/lib/"
  if [[ $engine == elasticsearch ]]; then
    # Elasticsearch compresses with its own copy of libzstd, which Maven does not have: take the machine's.
    mkdir -p "$fresh/lib/platform/linux-x64"
    for library in /usr/lib/x86_64-linux-gnu/libzstd.so.1 /usr/lib64/libzstd.so.1; do
      [[ -r $library ]] || continue
      cp -L "$library" "$fresh/lib/platform/linux-x64/libzstd.so"
      break
    done
  fi
  while IFS='|' read -r module class coordinate extended exclusions; do
    lay_out_module "$module" "$class" "$coordinate" "$extended"
  done <<<"$modules"
  for coordinate in ${archives[@]+"${archives[@]}"}; do
    IFS=: read -r _ archive _ <<<"$coordinate"
    python3 -m zipfile -e "$build/archives/jars/$archive"-*.zip "$build/$archive"
  done
  ! declare -F after_layout >/dev/null || after_layout
  "$JAVA/bin/javac" -d "$fresh/launcher" "$here/SearchNode.java"
  rm -rf "$build"
  echo "$recipe" >"$fresh/.recipe"
  rm -rf "$home"
  mv "$fresh" "$home"
}

# What is in the cache is made again when its recipe changed: these files, the coordinates or the JDK.
recipe=$({
  printf '%s\n' "${server[@]}" "$modules" "${archives[*]-}" "$JAVA_V"
  cat "$here/SearchNode.java" "$here/RestRootPlugin.java" "$here/node.sh"
} | sha256sum)
mkdir -p "$cache"
exec 9>"$cache/$name-$version.lock"
flock 9 # two scripts may ask at the same time: one fetches, the other waits
[[ $(cat "$home/.recipe" 2>/dev/null) == "$recipe" ]] || provision
exec 9>&-
[[ -z ${PROVISION_ONLY:-} ]] || exit 0

mkdir -p "$data"
data=$(cd "$data" && pwd)
mkdir -p "$data/config" "$data/tmp"
cat >"$data/config/log4j2.properties" <<'PROPERTIES'
status = error
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
PROPERTIES
touch "$data/config/$engine.yml"

! declare -F before_start >/dev/null || before_start

# Elasticsearch runs on the module path only from 8 on, all others on the class path only.
if [[ $engine == elasticsearch && ${version%%.*} -ge 8 ]]; then
  paths=(-p "$home/lib" --add-modules 'jdk.net,ALL-MODULE-PATH' -cp "$home/launcher")
else
  paths=(-cp "$home/lib/*:$home/launcher")
fi
((JAVA_V < 21)) || paths+=(--enable-native-access=ALL-UNNAMED)
transport=$((port <= 65435 ? port + 100 : port - 100))
alone=(discovery.type=single-node)
for setting in "$@"; do
  [[ $setting != discovery.seed_hosts=* ]] || alone=()
done
run=()
[[ -z ${STOP_WITH_PARENT:-} ]] || run=(setpriv --pdeathsig=TERM)
cd "$data"
# The serial collector and the first compiler suit a short life on two cores. How full a shared disk is must not decide
# whether a node takes a shard: above 85 % it would leave each new index without one, and tests would wait for ever.
exec ${run[@]+"${run[@]}"} "$JAVA/bin/java" -Xms"${HEAP:-512m}" -Xmx"${HEAP:-512m}" \
  -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dfile.encoding=UTF-8 -Djava.awt.headless=true \
  -Djava.io.tmpdir="$data/tmp" "${jvm[@]}" "${paths[@]}" rowtide.servers.SearchNode "$home" "$data/config" \
  path.data="$data/data" path.logs="$data/logs" cluster.name="$name" node.name="$name" network.host=127.0.0.1 \
  http.port="$port" transport.port="$transport" ${alone[@]+"${alone[@]}"} \
  cluster.routing.allocation.disk.threshold_enabled=false "$@"
