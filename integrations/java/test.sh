#!/usr/bin/env bash
# Tests the filter, with the JDK and Tomcat alone: its parts, and in real Tomcats in one process.
#
#   integrations/java/test.sh                 runs all tests
#   integrations/java/test.sh build FOLDER    compiles filter and tests into FOLDER, and prints the class path
#   TOMCAT=/path/to/a/tomcat/10               otherwise Debian's
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOMCAT=${TOMCAT:-/usr/share/tomcat10}
[[ -e $TOMCAT/lib/catalina.jar ]] || { echo "there is no Tomcat in $TOMCAT: install tomcat10-common, or set TOMCAT" >&2; exit 2; }
folder=${2:-$(mktemp -d)}
[[ ${1:-} == build ]] || trap 'rm -rf "$folder"' EXIT
path="$folder:$TOMCAT/lib/*:$TOMCAT/bin/tomcat-juli.jar"
javac --release 17 -Xlint:all,-path,-try -Werror -cp "$path" -d "$folder" "$here"/{src,test}/dev/linchpin/session/*.java
if [[ ${1:-} == build ]]; then
    echo "$path"
    exit
fi
for test in PartsTest FilterTest; do
    java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djava.util.logging.config.file="$here/test/logging.properties" -cp "$path" "dev.linchpin.session.$test"
done
