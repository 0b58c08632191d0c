#!/usr/bin/env bash
# start-es8-sec.sh PORT DATADIR [setting=value...]: Elasticsearch 8 with its security, in the foreground; see search/node.sh.
#
#   TLS=false   plain HTTP, with the same logins
#
# User `rowtide`, password `rowtide-secret`, superuser; API keys. Its certificate is DATADIR/config/node.pem with node-key.pem,
# its authority's ca.pem: what is there before the start is taken, else one is made (search/tls.sh). The modules are
# Elastic's own; OpenSAML, without which they do not load, is not on Maven by itself: it comes out of OpenSearch's.
set -euo pipefail
name=elasticsearch-sec version=${ES8_VERSION:-8.19.21} engine=elasticsearch java_min=17
server=("org.elasticsearch:elasticsearch:$version")
plugin=org.elasticsearch.plugin
# What Maven does not have of OpenSAML and of what it needs.
lacking="org.opensaml:*,net.shibboleth.utilities:java-support,org.elasticsearch.plugin:es-opensaml-security-api"
lacking+=",com.github.stephenc.jcip:jcip-annotations,org.apache.santuario:xmlsec,org.cryptacular:cryptacular,org.slf4j:slf4j-api"
# name|class of the plugin|Maven coordinate ("" = compiled here)|plugins that it extends|what it is fetched without
modules="transport-netty4|org.elasticsearch.transport.netty4.Netty4Plugin|$plugin:transport-netty4:$version|
rest-root|rowtide.servers.RestRootPlugin||
x-pack-core|org.elasticsearch.xpack.core.XPackPlugin|$plugin:x-pack-core:$version|
x-pack-security|org.elasticsearch.xpack.security.Security|$plugin:x-pack-security:$version|x-pack-core|$lacking"
jvm=(-Des.distribution.type=tar -Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false)
archives=(org.opensearch.plugin:opensearch-security:2.19.4.0)

# The jars of the archive that the module is fetched without.
after_layout() {
  local donor=$build/opensearch-security module=$fresh/modules/x-pack-security
  mv "$donor"/opensaml-{core,saml-api,saml-impl,security-api,security-impl,xmlsec-api,xmlsec-impl}-*.jar \
    "$donor"/java-support-*.jar "$module/"
}

before_start() {
  local config=$data/config
  make_certificate "$config"
  # bcrypt of the password. The name `elastic` would be the server's own.
  # shellcheck disable=SC2016 # no variable of the shell's
  printf 'rowtide:%s\n' '$2a$10$z36.PuIcanskE5jJ0jOLbemtvX5roTvzoSrE3p2hm4SbNCHc.wzgu' >"$config/users"
  echo 'superuser:rowtide' >"$config/users_roles"
  touch "$config/roles.yml" "$config/role_mapping.yml"
  cat >"$config/elasticsearch.yml" <<YAML
xpack.security.enabled: true
xpack.security.http.ssl.enabled: ${TLS:-true}
xpack.security.http.ssl.certificate: node.pem
xpack.security.http.ssl.key: node-key.pem
xpack.security.http.ssl.certificate_authorities: [ca.pem]
xpack.security.authc.api_key.enabled: true
YAML
}
# shellcheck source=scripts/servers/search/tls.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/tls.sh"
# shellcheck source=scripts/servers/search/node.sh
. "$(dirname "${BASH_SOURCE[0]}")/search/node.sh"
