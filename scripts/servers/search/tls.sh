# shellcheck shell=bash
# tls.sh: sourced. make_certificate FOLDER makes a server's certificate for 127.0.0.1 and localhost (node.pem, node-key.pem)
# and its authority's (ca.pem), good for 30 days, unless node.pem is there already.
make_certificate() {
  local folder=$1
  [[ ! -e $folder/node.pem ]] || return 0
  (
    cd "$folder" || exit 1
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=search-ca -keyout ca-key.pem -out ca.pem \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
    openssl req -newkey rsa:2048 -nodes -subj /CN=search-node -keyout node-key.pem -out node.csr
    openssl x509 -req -in node.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 -out node.pem.new \
      -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth')
    mv node.pem.new node.pem
  ) 2>"$folder/openssl.log" || { cat "$folder/openssl.log" >&2; return 1; }
}
