#!/bin/sh
# image.sh PROGRAM FOLDER: puts into FOLDER what the image holds, and nothing else. The Dockerfile runs it, and so do the
# tests, which then start the program with the libraries that were found here.
set -eu
program=$1 image=$2
here=$(dirname "$0")

put() { # put FILE PLACE
  mkdir -p "$image$(dirname "$2")"
  cp -L "$1" "$image$2"
}

put "$program" /usr/local/bin/seawall
put "$here/container.yaml" /etc/seawall/seawall.yaml
put /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# The libraries and their loader, each where the program looks for it: glibc, and gcc's for unwinding.
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do put "$library" "$library"; done
# Names of /etc/hosts, which the container runtime writes, come before those of DNS.
echo 'hosts: files dns' > "$image/etc/nsswitch.conf"
chmod -R a+rX "$image"
