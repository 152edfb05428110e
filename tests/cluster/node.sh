# A Kubernetes node of one's own: etcd, API server, controller manager, scheduler, kube-proxy, CoreDNS, containerd and kubelet
# in one network namespace. Sourced by `run`. Nothing in it reaches, or is reached from, outside of the machine: the addresses are
# those that are reserved for documentation, and exist inside of the namespace only.
#
# node_start brings it up, node_stop ends every process that node_start began, by its id, and removes what it made.
# Everything runs through `nsenter --net`: `ip netns exec` would hide /sys/fs/cgroup from the kubelet.

NETNS=cedargate-cluster
NODE=node-1
NODE_ADDRESS=192.0.2.1
PODS=203.0.113.0/24
SERVICES=198.51.100.0/24
ADMIN_TOKEN=cluster-admin
# sockets: a Unix path has 108 bytes at most, so not below the checkout
SOCKETS=/run/cedargate-cluster
# where this node's pods are counted; its own name, so that another kubelet of the machine keeps its pods
CGROUP=cedargate-cluster

in_node() { nsenter --net=/run/netns/$NETNS -- "$@"; }
kube() { in_node "$BIN/kubectl" --kubeconfig "$STATE/admin.kubeconfig" "$@"; }

# begin <name> <command…>: starts a part in the node, its log in $LOGS/<name>.log, its id in $STATE/pids. File 8 is the lock
# of this run, which no part may keep.
begin() {
    local name=$1
    shift
    setsid nsenter --net=/run/netns/$NETNS -- "$@" >"$LOGS/$name.log" 2>&1 </dev/null 8>&- &
    echo "$! $(begun_at $!) $name" >>"$STATE/pids"
}

# When a process began, in ticks since the start of the machine. With it, an id names one process for ever.
begun_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# parts: ids and names of the parts that still run, the last one first
parts() {
    local pid begun name
    while read -r pid begun name; do
        if [ "$(begun_at "$pid")" = "$begun" ]; then echo "$pid $name"; fi
    done < <(tac "$STATE/pids")
}

# until_true <seconds> <what> <command…>: tries again until the command succeeds
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >"$STATE/last-try" 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "never came true: $what; last: $(tail -n 3 "$STATE/last-try")" >&2
            return 1
        fi
        sleep 0.2
    done
}

node_network() {
    if [ -e /run/netns/$NETNS ]; then
        echo "test-cluster: the network namespace $NETNS is left from a run of another checkout that was killed; run it there" >&2
        echo "again, or end its processes (\`ip netns pids $NETNS\`) and \`ip netns delete $NETNS\`" >&2
        return 1
    fi
    ip netns add $NETNS
    touch "$STATE/netns"
    in_node ip link set lo up
    in_node ip link add node0 type bridge
    in_node ip address add $NODE_ADDRESS/24 dev node0
    in_node ip link set node0 up
    in_node ip route add default dev node0
    in_node sysctl -qw net.ipv4.ip_forward=1
    mkdir -p "$STATE/cni"
    cat >"$STATE/cni/10-pods.conflist" <<END
{ "cniVersion": "1.0.0", "name": "pods", "plugins": [
  { "type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "$STATE/addresses", "ranges": [[{ "subnet": "$PODS" }]], "routes": [{ "dst": "0.0.0.0/0" }] } } ] }
END
}

node_kubeconfig() {
    cat >"$STATE/admin.kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: "https://$NODE_ADDRESS:6443", insecure-skip-tls-verify: true } }]
users: [{ name: admin, user: { token: $ADMIN_TOKEN } }]
contexts: [{ name: c, context: { cluster: c, user: admin } }]
current-context: c
END
    echo "$ADMIN_TOKEN,admin,admin,system:masters" >"$STATE/tokens.csv"
    openssl genrsa -out "$STATE/accounts.key" 2048 2>/dev/null
}

node_containerd() {
    mkdir -p "$STATE/containerd" "$SOCKETS"
    # restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE refuses every sandbox otherwise
    cat >"$STATE/containerd.toml" <<END
version = 2
root = "$STATE/containerd"
state = "$SOCKETS/containerd"
[grpc]
  address = "$SOCKETS/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni"
END
    begin containerd containerd --config "$STATE/containerd.toml"
    until_true 30 "containerd answers" ctr --address "$SOCKETS/containerd.sock" version
}

node_control_plane() {
    local certs=$STATE/certs
    mkdir -p "$certs"
    begin etcd "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --logger zap --log-level warn
    begin apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --cert-dir="$certs" \
        --bind-address=$NODE_ADDRESS --advertise-address=$NODE_ADDRESS --endpoint-reconciler-type=none \
        --kubelet-preferred-address-types=InternalIP \
        --service-cluster-ip-range=$SERVICES --token-auth-file="$STATE/tokens.csv" --authorization-mode=RBAC,Node \
        --service-account-issuer=https://cluster.invalid --service-account-key-file="$STATE/accounts.key" \
        --service-account-signing-key-file="$STATE/accounts.key"
    until_true 90 "the API server is ready" kube get --raw /readyz
    begin controller-manager "$BIN/kube-controller-manager" --kubeconfig="$STATE/admin.kubeconfig" --leader-elect=false \
        --controllers='*,-nodeipam' --cert-dir="$certs" --root-ca-file="$certs/apiserver.crt" \
        --service-account-private-key-file="$STATE/accounts.key"
    begin scheduler "$BIN/kube-scheduler" --kubeconfig="$STATE/admin.kubeconfig" --leader-elect=false \
        --cert-dir="$certs"
    begin proxy "$BIN/kube-proxy" --kubeconfig="$STATE/admin.kubeconfig" --hostname-override=$NODE --proxy-mode=iptables \
        --cluster-cidr=$PODS --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
        --conntrack-tcp-timeout-close-wait=0 --iptables-min-sync-period=100ms
    cat >"$STATE/Corefile" <<END
.:53 {
    bind $NODE_ADDRESS
    errors
    kubernetes cluster.local {
        kubeconfig $STATE/admin.kubeconfig
    }
}
END
    begin coredns "$BIN/coredns" -conf "$STATE/Corefile"
}

node_kubelet() {
    mkdir -p "$STATE/kubelet" "$LOGS/pods"
    cat >"$STATE/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$SOCKETS/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failSwapOn: false
failCgroupV1: false
configMapAndSecretChangeDetectionStrategy: Watch
syncFrequency: 5s
podLogsDir: $LOGS/pods
volumePluginDir: $STATE/plugins
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
enforceNodeAllocatable: []
evictionHard: { memory.available: 50Mi, nodefs.available: "1%", imagefs.available: "1%" }
# images cannot be pulled again, so kubelet must not remove one to make room
imageGCHighThresholdPercent: 100
resolvConf: ""
clusterDNS: [$NODE_ADDRESS]
clusterDomain: cluster.local
maxPods: 60
END
    local controller
    for controller in /sys/fs/cgroup/*/; do
        # cgroup v1 has a tree for each controller, v2 has one tree
        if [ -e "$controller/tasks" ]; then mkdir -p "$controller$CGROUP"; fi
    done
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir -p /sys/fs/cgroup/$CGROUP; fi
    begin kubelet "$BIN/kubelet" --kubeconfig="$STATE/admin.kubeconfig" --config="$STATE/kubelet.yaml" \
        --root-dir="$STATE/kubelet" --cert-dir="$STATE/certs" --hostname-override=$NODE --node-ip=$NODE_ADDRESS
    until_true 120 "the node is ready" \
        kube wait --for=condition=Ready "node/$NODE" --timeout=1s
}

# node_image <tar>: gives an image to containerd; there is no registry
node_image() { ctr --address "$SOCKETS/containerd.sock" --namespace k8s.io images import "$1" >/dev/null; }

# node_start <tar of the pause image>
node_start() {
    node_network
    node_kubeconfig
    node_containerd
    node_image "$1"
    node_control_plane
    node_kubelet
}

# ended <process id> <seconds>: waits for its end
ended() {
    local tries=$(($2 * 10))
    while kill -0 "$1" 2>/dev/null && [ $tries -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
    ! kill -0 "$1" 2>/dev/null
}

# Ends the parts in the reverse order of their start: kubelet before containerd before etcd.
node_stop() {
    local pid name controller
    if [ -s "$STATE/pids" ]; then
        node_end_pods
        node_end_containers
        while read -r pid name; do
            kill -TERM "$pid" 2>/dev/null || continue
            ended "$pid" 10 || kill -KILL "$pid" 2>/dev/null || true
        done < <(parts)
    fi
    node_unmount
    # only the one that this state made
    if [ -e "$STATE/netns" ]; then ip netns delete $NETNS 2>/dev/null || true; fi
    for controller in /sys/fs/cgroup/*/$CGROUP /sys/fs/cgroup/$CGROUP; do
        [ -d "$controller" ] && find "$controller" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$SOCKETS"
}

node_ctr() { ctr --address "$SOCKETS/containerd.sock" --namespace k8s.io "$@"; }
no_tasks() { [ -z "$(node_ctr tasks list -q)" ]; }

# Lets kubelet end the pods: it gives their addresses and namespaces back.
node_end_pods() {
    kube delete deployments,jobs --all --all-namespaces --wait=false --request-timeout=5s >"$LOGS/stop.log" 2>&1 || return 0
    kube delete pods --all --all-namespaces --force --grace-period=0 --wait=false --request-timeout=5s >>"$LOGS/stop.log" 2>&1 || return 0
    until_true 20 "the pods are gone" no_tasks 2>>"$LOGS/stop.log" || true
}

# What kubelet did not end: kubelet first, so that it starts no container again, then every container of this containerd, with
# its shim, and the network namespaces of the sandboxes.
node_end_containers() {
    local pid name item netns
    while read -r pid name; do
        if [ "$name" = kubelet ]; then
            kill -TERM "$pid" 2>/dev/null || true
            ended "$pid" 10 || true
        fi
    done < <(parts)
    for item in $(node_ctr tasks list -q 2>/dev/null); do
        node_ctr tasks delete --force "$item" >/dev/null 2>&1 || true
    done
    for item in $(node_ctr containers list -q 2>/dev/null); do
        for netns in $(node_ctr containers info "$item" | grep -oE 'netns/cni-[0-9a-f-]+' | sort -u); do
            ip netns delete "${netns#netns/}" 2>/dev/null || true
        done
        node_ctr containers delete "$item" >/dev/null 2>&1 || true
    done
}

node_unmount() {
    local mount
    for mount in $(awk -v a="$STATE/" -v b="$SOCKETS/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r); do
        umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true
    done
}
