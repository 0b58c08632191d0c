#!/usr/bin/env bash
# start-os2-sec.sh PORT DATADIR [setting=value...]: OpenSearch 2 with its security, in the foreground; see search/node.sh.
#
#   TLS=false   plain HTTP, with the same login
#
# User `admin`, password `admin`. Its certificate is DATADIR/config/node.pem with node-key.pem, its authority's ca.pem:
# what is there before the start is taken, else one is made (search/tls.sh). 2.19.4 is the last release whose security
# Maven has.
set -euo pipefail
name=opensearch-sec version=2.19.4 engine=opensearch java_min=17
server=(
  "org.opensearch:opensearch:$version"
  org.opensearch:opensearch-plugin-classloader:2.19.6
  org.apache.logging.log4j:log4j-core:2.21.0
)
plugin=org.opensearch.plugin
# name|class of the plugin|Maven coordinate|plugins that it extends
modules="transport-netty4|org.opensearch.transport.Netty4Plugin|$plugin:transport-netty4-client:$version|
reindex|org.opensearch.index.reindex.ReindexPlugin|$plugin:reindex-client:$version|
lang-painless|org.opensearch.painless.PainlessPlugin|$plugin:lang-painless:$version|
analysis-common|org.opensearch.analysis.common.CommonAnalysisPlugin|$plugin:analysis-common:$version|lang-painless
mapper-extras|org.opensearch.index.mapper.MapperExtrasPlugin|$plugin:mapper-extras-client:$version|"
jvm=(-Dopensearch.distribution.type=tar)
archives=("$plugin:opensearch-security:$version.0")

# It is a plugin, not a module: its configuration lies beside its jars.
after_layout() { mv "$build/opensearch-security" "$fresh/plugins/"; }

before_start() {
  local config=$data/config
  make_certificate "$config"
  [[ -e $config/opensearch-security ]] || cp -r "$home/plugins/opensearch-security/config" "$config/opensearch-security"
  cat >"$config/opensearch.yml" <<YAML
plugins.security.ssl.transport.pemcert_filepath: node.pem
plugins.security.ssl.transport.pemkey_filepath: node-key.pem
plugins.security.ssl.transport.pemtrustedcas_filepath: ca.pem
plugins.security.ssl.transport.enforce_hostname_verification: false
plugins.security.ssl.http.enabled: ${TLS:-true}
plugins.security.ssl.http.pemcert_filepath: node.pem
plugins.security.ssl.http.pemkey_filepath: node-key.pem
plugins.security.ssl.http.pemtrustedcas_filepath: ca.pem
plugins.security.allow_default_init_securityindex: true
plugins.security.nodes_dn: ["CN=search-node"]
YAML
}
# shellcheck source=scripts/servers/search/tls.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/tls.sh"
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
