#!/usr/bin/env bash
# Runs the steps of examples/Containerfile on a Debian machine without a program that builds images: the build where this machine has
# Rust, and the rest in a root of Debian's packages. Needs debootstrap, root, and a few minutes. SELMA names a binary that is built.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
steps() { sed -n "s/^$1 //p" examples/Containerfile; }

if [ -z "${SELMA:-}" ]; then
  # The files that are copied, as .dockerignore leaves them.
  mkdir "$root/src"
  grep '^/' .dockerignore | sed 's|^/|./|' >"$root/ignored"
  tar --exclude-from="$root/ignored" -cf - . | tar -xf - -C "$root/src"
  (cd "$root/src" && bash -euc "$(steps RUN | head -n 1)")
  SELMA=$root/src/target/release/selma
fi
debootstrap --variant=minbase bookworm "$root/image"
install -m 755 "$SELMA" "$root/image/usr/local/bin/selma"
in_image() { chroot "$root/image" env $(steps ENV) "$@"; }
in_image sh -euc "$(steps RUN | tail -n 1)"
in_image sh -euc "$(steps CMD | tr -d '[],"')" >/dev/null
# As a user who is not root, with models where the volume is.
in_image setpriv --reuid=1000 --regid=1000 --clear-groups sh -euc '
  cd /run/selma
  HOME=/models selma --device cpu generate --model shapes --prompt "a red circle" --steps 2 --out images
  test -s images/00000.png'
echo "the steps of examples/Containerfile do what they should"
