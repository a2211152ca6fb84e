#!/bin/sh
# Makes what base.Dockerfile needs: rootfs.tar, a minimal Debian 12, and ca/host.crt, the certificates that this
# machine trusts. Runs as root, or as a user with subordinate ids. Needs Debian's mmdebstrap (and uidmap as a user).
#
# The new system gets this machine's apt sources and its Acquire settings (mirrors, proxies, validity checks), so that
# apt works in it wherever it works here.
set -eu
cd "$(dirname "$0")"

settings=$(mktemp)
trap 'rm -f "$settings" rootfs.tar.new' EXIT
apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|Retries|(http|https)(::[^ ]*)?::(Proxy|CaInfo|Verify-Peer|Verify-Host)) ' \
    > "$settings" || true

# Sources for bookworm, in either of apt's two formats; without any, mmdebstrap's default is Debian's own mirror.
sources=
for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    if [ -z "$sources" ] && [ -s "$file" ] && grep -q bookworm "$file"; then
        sources=$file
    fi
done

# ca-certificates is there from the start, so that a private CA can be lent to apt and pip alike. SOURCE_DATE_EPOCH makes mmdebstrap
# write the same archive whenever the packages are the same. Device nodes are the runtime's affair.
export SOURCE_DATE_EPOCH=1700000000
mmdebstrap --quiet --variant=minbase --include=ca-certificates --skip=output/dev --format=tar --aptopt="$settings" \
    bookworm rootfs.tar.new ${sources:+"$sources"}
mv rootfs.tar.new rootfs.tar

mkdir -p ca
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
    cp /etc/ssl/certs/ca-certificates.crt ca/host.crt
fi
