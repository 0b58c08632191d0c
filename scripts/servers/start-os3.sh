#!/usr/bin/env bash
# start-os3.sh PORT DATADIR [setting=value...]: a real OpenSearch 3 in the foreground; see search/node.sh.
#
# As OpenSearch 2 (start-os2.sh), on a JDK 21 or later.
set -euo pipefail
name=opensearch version=${OS3_VERSION:-3.8.0} engine=opensearch java_min=21
server=(
  "org.opensearch:opensearch:$version"
  "org.opensearch:opensearch-plugin-classloader:$version"
  org.apache.logging.log4j:log4j-core:2.25.4
)
plugin=org.opensearch.plugin
# name|class of the plugin|Maven coordinate|plugins that it extends
modules="transport-netty4|org.opensearch.transport.Netty4ModulePlugin|$plugin:transport-netty4-client:$version|
reindex|org.opensearch.index.reindex.ReindexModulePlugin|$plugin:reindex-client:$version|
lang-painless|org.opensearch.painless.PainlessModulePlugin|$plugin:lang-painless:$version|
analysis-common|org.opensearch.analysis.common.CommonAnalysisModulePlugin|$plugin:analysis-common:$version|lang-painless
mapper-extras|org.opensearch.index.mapper.MapperExtrasModulePlugin|$plugin:mapper-extras-client:$version|"
jvm=(-Dopensearch.distribution.type=tar)
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
