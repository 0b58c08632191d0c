#!/usr/bin/env bash
# start-os2.sh PORT DATADIR [setting=value...]: a real OpenSearch 2 in the foreground; see search/node.sh.
#
# Maven has all its modules but data streams and index management.
set -euo pipefail
name=opensearch version=${OS2_VERSION:-2.19.6} engine=opensearch java_min=17
server=(
  "org.opensearch:opensearch:$version"
  "org.opensearch:opensearch-plugin-classloader:$version"
  org.apache.logging.log4j:log4j-core:2.25.4
)
plugin=org.opensearch.plugin
# name|class of the plugin|Maven coordinate|plugins that it extends
modules="transport-netty4|org.opensearch.transport.Netty4Plugin|$plugin:transport-netty4-client:$version|
reindex|org.opensearch.index.reindex.ReindexPlugin|$plugin:reindex-client:$version|
lang-painless|org.opensearch.painless.PainlessPlugin|$plugin:lang-painless:$version|
analysis-common|org.opensearch.analysis.common.CommonAnalysisPlugin|$plugin:analysis-common:$version|lang-painless
mapper-extras|org.opensearch.index.mapper.MapperExtrasPlugin|$plugin:mapper-extras-client:$version|"
jvm=(-Dopensearch.distribution.type=tar)
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
