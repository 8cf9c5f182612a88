#!/usr/bin/env bash
# The browser tests drive a system Chromium. Installs one where that is possible, else says how to get it.
set -euo pipefail

for name in "${APRNB_CHROMIUM:-chromium}" chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "Installing Chromium for the browser tests"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
  exit 0
fi
echo "The browser tests need Chromium: install it (Debian, Ubuntu: sudo apt-get install chromium)," >&2
echo "or name another with APRNB_CHROMIUM=/path/to/chrome." >&2
exit 1
