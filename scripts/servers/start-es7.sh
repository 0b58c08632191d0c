#!/usr/bin/env bash
# start-es7.sh PORT DATADIR [setting=value...]: a real Elasticsearch 7.17 in the foreground; see search/node.sh.
#
# Maven has the server and its HTTP transport. Neither painless nor ingest processors, analysis-common or ILM are there.
set -euo pipefail
name=elasticsearch version=${ES7_VERSION:-7.17.29} engine=elasticsearch java_min=17
server=("org.elasticsearch:elasticsearch:$version")
# name|class of the plugin|Maven coordinate|plugins that it extends
modules="transport-netty4|org.elasticsearch.transport.Netty4Plugin|org.elasticsearch.plugin:transport-netty4-client:$version|"
jvm=(-Des.distribution.flavor=default -Des.distribution.type=tar)
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
