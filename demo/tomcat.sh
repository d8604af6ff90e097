#!/usr/bin/env bash
# Sessions that survive, three ways: three Tomcat 10 servers, Linchpin with its sealed cookie and no jvmRoute, and 1150 users
# with a login and a cart. Servers are killed with kill -9; login and cart must survive. Prints the memory that a session
# takes on each server, the messages that a save takes, and the time until the first good answer after each kill. Says what
# happens and checks it; exits non-zero if anything differs, and leaves nothing behind.
#
#   demo/tomcat.sh all-to-all           DeltaManager: every server holds every session; two of the three are killed
#   demo/tomcat.sh primary-secondary    BackupManager: each session is on two servers; one is killed at a time, the next
#                                       one when Tomcat has copied the sessions again
#   demo/tomcat.sh copies               no cluster: Linchpin holds copies, by the filter of integrations/java; two servers
#                                       are killed at once, started again, and then the third
#
# Needs bash, curl, python3, a JDK and Debian's tomcat10-common (or TOMCAT=/path/to/a/tomcat/10). Builds linchpin, or shows
# the binary in LINCHPIN.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=${1:-}
case $mode in
all-to-all) manager=DeltaManager ;;
primary-secondary) manager=BackupManager ;;
copies) manager= ;;
*)
    echo "usage: demo/tomcat.sh all-to-all | primary-secondary | copies" >&2
    exit 2
    ;;
esac
TOMCAT=${TOMCAT:-/usr/share/tomcat10}

source "$here/steps.sh"
declare -A http_of cluster_of

# The application: the same for every server and every way. Clusters need <distributable/>, copies need a jar and a secret.
build_shop() {
    local distributable="<distributable/>"
    mkdir -p "$folder/shop/WEB-INF/classes" "$folder/shop/WEB-INF/lib"
    if [[ $mode == copies ]]; then
        distributable=
        "$here/../integrations/java/build.sh" "$folder/shop/WEB-INF/lib"
        LINCHPIN_SESSION_SECRET=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
        export LINCHPIN_SESSION_SECRET
    fi
    javac -d "$folder/shop/WEB-INF/classes" -cp "$TOMCAT/lib/servlet-api.jar" "$here"/tomcat/*.java
    cat >"$folder/shop/WEB-INF/web.xml" <<XML
<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
  $distributable
  <servlet><servlet-name>shop</servlet-name><servlet-class>Shop</servlet-class></servlet>
  <servlet-mapping><servlet-name>shop</servlet-name><url-pattern>/</url-pattern></servlet-mapping>
  <servlet><servlet-name>measures</servlet-name><servlet-class>Measures</servlet-class></servlet>
  <servlet-mapping><servlet-name>measures</servlet-name><url-pattern>/measures</url-pattern></servlet-mapping>
</web-app>
XML
}

# The cluster of server $1: static members on loopback, no multicast. Everything is sent before the client has its answer, and
# acknowledged (6 = SYNCHRONIZED_ACK | USE_ACK). A ping each half second finds out that a server is dead.
cluster() {
    local tribes=org.apache.catalina.tribes name element number=0 members=
    for name in a b c; do
        element=Member
        [[ $name != "$1" ]] || element=LocalMember
        number=$((number + 1))
        members+="<$element className=\"$tribes.membership.StaticMember\" host=\"127.0.0.1\" port=\"${cluster_of[$name]}\"
              uniqueId=\"{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,$number}\"/>"
    done
    local options=
    # Which is BackupManager's default, and has another name there.
    [[ $manager != BackupManager ]] || options='mapSendOptions="6"'
    cat <<XML
        <Cluster className="org.apache.catalina.ha.tcp.SimpleTcpCluster" channelSendOptions="6" channelStartOptions="3">
          <Manager className="org.apache.catalina.ha.session.$manager" expireSessionsOnShutdown="false" $options/>
          <Channel className="$tribes.group.GroupChannel" heartbeatSleeptime="1000">
            <Receiver className="$tribes.transport.nio.NioReceiver" address="127.0.0.1" port="${cluster_of[$1]}" autoBind="0"/>
            <Sender className="$tribes.transport.ReplicationTransmitter">
              <Transport className="$tribes.transport.nio.PooledParallelSender"/>
            </Sender>
            <Interceptor className="$tribes.group.interceptors.ThroughputInterceptor" interval="1000000"/>
            <Interceptor className="$tribes.group.interceptors.TcpPingInterceptor" interval="500" useThread="true"/>
            <Interceptor className="$tribes.group.interceptors.TcpFailureDetector"/>
            <Interceptor className="$tribes.group.interceptors.StaticMembershipInterceptor">$members</Interceptor>
          </Channel>
          <Valve className="org.apache.catalina.ha.tcp.ReplicationValve"/>
          <ClusterListener className="org.apache.catalina.ha.session.ClusterSessionListener"/>
        </Cluster>
XML
}

start_server() {
    local base=$folder/$1
    mkdir -p "$base"/{conf,temp,logs,work,webapps}
    # No jvmRoute: the routing cookie says where a session is, and its id stays as it is wherever it goes.
    cat >"$base/conf/server.xml" <<XML
<Server port="-1">
  <Service name="Catalina">
    <Connector address="127.0.0.1" port="${http_of[$1]}" maxThreads="20" maxHttpResponseHeaderSize="49152"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps" autoDeploy="false" deployOnStartup="false">
$([[ -z $manager ]] || cluster "$1")
        <Context path="" docBase="$folder/shop"/>
      </Host>
    </Engine>
  </Service>
</Server>
XML
    # Flags for a quick start and a small heap; nothing that the application would notice.
    java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Ddemo.server="$1" -Djava.net.preferIPv4Stack=true \
        -Dcatalina.home="$TOMCAT" -Dcatalina.base="$base" -Djava.io.tmpdir="$base/temp" \
        -cp "$TOMCAT/bin/bootstrap.jar:$TOMCAT/bin/tomcat-juli.jar" org.apache.catalina.startup.Bootstrap start \
        >"$folder/$1.log" 2>&1 &
    pid_of[$1]=$!
    disown
    until_answers "http://127.0.0.1:${http_of[$1]}/" "${pid_of[$1]}"
    say "server $1 listens on 127.0.0.1:${http_of[$1]} (process ${pid_of[$1]})"
}

# ask ORDER: has the clients do something; their answer is left in $answer.
ask() {
    local verdict
    echo "$*" >&"${CLIENTS[1]}"
    read -r -t 60 verdict answer <&"${CLIENTS[0]}" || verdict=failed
    [[ $verdict == ok ]] || exit 1
}

for tool in java javac curl python3; do
    command -v "$tool" >/dev/null || { echo "install $tool first" >&2; exit 2; }
done
[[ -e $TOMCAT/lib/catalina-ha.jar ]] || {
    echo "there is no Tomcat in $TOMCAT: install Debian's tomcat10-common, or set TOMCAT to the folder of a Tomcat 10.1" >&2
    exit 2
}
find_linchpin

if [[ $mode == copies ]]; then
    step "Three Tomcats start, each on its own"
else
    step "Three Tomcats start as a cluster ($mode: $manager)"
fi
read -r proxy_port http_of[a] http_of[b] http_of[c] cluster_of[a] cluster_of[b] cluster_of[c] <<<"$(free_ports 7)"
build_shop
# One after the other: Tomcats that start at the same moment wait for each other's sessions for a minute.
for name in a b c; do start_server "$name"; done

step "Linchpin starts in front of them"
{
    cat <<TOML
[log]
access = "$folder/access.log"

[[listeners]]
address = "127.0.0.1:$proxy_port"

[[pools]]
name = "app"

[pools.health]
interval = "500ms"
TOML
    [[ $mode != copies ]] || printf '\n[pools.copies]\nhold = "balancer"\n'
    for name in a b c; do
        printf '\n[[pools.backends]]\nname = "%s"\naddress = "127.0.0.1:%s"\n' "$name" "${http_of[$name]}"
    done
} >"$folder/linchpin.toml"
"$LINCHPIN" run -c "$folder/linchpin.toml" >"$folder/proxy.log" 2>&1 &
proxy_pid=$!
disown
until_answers "http://127.0.0.1:$proxy_port/" "$proxy_pid"
say "one address for all three: http://127.0.0.1:$proxy_port (process $proxy_pid)"

# The clients answer through a pipe; what they have to say goes where this script's words go.
exec 4>&1
places=()
for name in a b c; do places+=("$name=127.0.0.1:${http_of[$name]}/${pid_of[$name]}"); done
coproc CLIENTS { exec python3 "$here/tomcat/clients.py" "127.0.0.1:$proxy_port" "$mode" "$proxy_pid" "${places[@]}" 2>&4; }
clients_pid=$CLIENTS_PID
disown "$clients_pid"

step "Users log in and fill their carts"
ask fill

step "Some of them change their carts"
ask save

if [[ $mode == copies ]]; then
    step "Some users count, some get a new session id, some log out while a slow request of theirs is under way"
    ask count
    ask renew
    ask leave

    step "Two of the three servers die at once"
    ask kill 2
    killed=$answer
    ask survived

    step "Both are started again, with empty memories; then the third dies"
    for name in $killed; do
        start_server "$name"
        ask started "$name=127.0.0.1:${http_of[$name]}/${pid_of[$name]}"
    done
    ask serving
    ask kill 1
    ask survived

    step "As it must be: each server died, and no user lost anything"
    exit
fi

step "The first server dies"
ask kill 1
[[ $mode != primary-secondary ]] || ask copied
ask survived

step "The second server dies"
ask kill 1
ask survived

step "As it must be: two of three servers died, and no user lost anything"
