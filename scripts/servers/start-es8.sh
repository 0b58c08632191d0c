#!/usr/bin/env bash
# start-es8.sh PORT DATADIR [setting=value...]: a real Elasticsearch 8 in the foreground; see search/node.sh.
#
# Maven has the server and its HTTP transport, but not the module that answers GET /: it is compiled here, from
# search/RestRootPlugin.java. Neither painless nor ingest processors, analysis-common or ILM are there.
set -euo pipefail
name=elasticsearch version=${ES8_VERSION:-8.19.21} engine=elasticsearch java_min=17
server=("org.elasticsearch:elasticsearch:$version")
# name|class of the plugin|Maven coordinate ("" = compiled here)|plugins that it extends
modules="transport-netty4|org.elasticsearch.transport.netty4.Netty4Plugin|org.elasticsearch.plugin:transport-netty4:$version|
rest-root|rowtide.servers.RestRootPlugin||"
jvm=(-Des.distribution.type=tar -Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false)
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
