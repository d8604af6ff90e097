#!/usr/bin/env bash
# Builds linchpin-session.jar, with the JDK alone.
#
#   integrations/java/build.sh [FOLDER]       where to put the jar; otherwise integrations/java/build
#   SERVLET_API=/path/to/servlet-api.jar      the API of Servlet 6; otherwise Debian's Tomcat 10
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/build}
api=${SERVLET_API:-/usr/share/tomcat10/lib/servlet-api.jar}
[[ -e $api ]] || { echo "there is no $api: set SERVLET_API to the jar of the Servlet 6 API" >&2; exit 2; }
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT
mkdir -p "$folder" "$classes/META-INF/services"
javac --release 17 -Xlint:all -Werror -cp "$api" -d "$classes" "$here"/src/dev/linchpin/session/*.java
echo dev.linchpin.session.SessionFilterInstaller >"$classes/META-INF/services/jakarta.servlet.ServletContainerInitializer"
jar --create --file "$folder/linchpin-session.jar" -C "$classes" .
