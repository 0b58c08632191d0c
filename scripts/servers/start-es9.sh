#!/usr/bin/env bash
# start-es9.sh PORT DATADIR [setting=value...]: a real Elasticsearch 9 in the foreground; see search/node.sh.
#
# As Elasticsearch 8 (start-es8.sh), on a JDK 21 or later.
set -euo pipefail
name=elasticsearch version=${ES9_VERSION:-9.5.3} engine=elasticsearch java_min=21
server=("org.elasticsearch:elasticsearch:$version")
# name|class of the plugin|Maven coordinate ("" = compiled here)|plugins that it extends
modules="transport-netty4|org.elasticsearch.transport.netty4.Netty4Plugin|org.elasticsearch.plugin:transport-netty4:$version|
rest-root|rowtide.servers.RestRootPlugin||"
jvm=(-Des.distribution.type=tar -Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false)
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
