# The checks of the cluster's test. Sourced by `run`. Each `check_…` function prints what it saw through `saw`, and returns
# non-zero if that is not what the gate promises. Order matters: the first installs what the others look at.

PASSED=0
FAILED=0
ORDERS=/portal/customer/orders
# what a check saw, one line each
saw() { echo "$*" >>"$STATE/saw"; }

run_checks() {
    local name wanted
    for name in installs_and_decides ready_only_with_policies probes_of_a_loopback_app not_reachable_around_the_gate \
        an_edit_arrives a_broken_edit_keeps_serving a_rollout_loses_no_request a_deleted_pod_loses_no_request \
        memory_limit_holds a_job_completes inject_into_a_plain_deployment; do
        if [ $# -gt 0 ] && [ "$name" != installs_and_decides ]; then
            wanted=no
            for word in "$@"; do case $name in *"$word"*) wanted=yes ;; esac; done
            [ $wanted = yes ] || continue
        fi
        run_check "$name"
    done
}

run_check() {
    local from=$SECONDS result=PASS code
    : >"$STATE/saw"
    # In a subshell with `set -e`: the first command that fails ends the check. As a condition of `if` it would not.
    set +e
    (
        set -eE
        trap 'echo "failed: checks.sh:$LINENO: $BASH_COMMAND" >&2' ERR
        trap 'if [ -n "${LOAD:-}" ]; then kill "$LOAD" 2>/dev/null; fi' EXIT
        "check_$1"
    ) >"$LOGS/check-$1.log" 2>&1
    code=$?
    set -e
    if [ $code -eq 0 ]; then
        PASSED=$((PASSED + 1))
    else
        result=FAIL
        FAILED=$((FAILED + 1))
    fi
    printf '%s %s (%d s)\n' "$result" "${1//_/ }" $((SECONDS - from))
    sed 's/^/     /' "$STATE/saw"
    if [ $result = FAIL ]; then
        sed 's/^/     | /' "$LOGS/check-$1.log" | tail -n 15
        picture >"$LOGS/picture-$1.log" 2>&1 || true
    fi
}

# what the cluster looks like, for a failed check
picture() {
    kn get pods -o wide
    kn describe pods
    kn get events --sort-by=.lastTimestamp
    local pod
    for pod in $(kn get pods -o name); do kn logs "$pod" -c cedargate --tail=50; done
}

kn() { kube --namespace "$NAMESPACE" "$@"; }
token() { # token <subject> <role>
    "$GATE" token mint --key "$STATE/issuer.pem" --jwks "$STATE/jwks.json" --issuer https://issuer.test/ --audience shop \
        --subject "$1" --tenant acme --role "$2" --ttl 2h
}

# once for all checks: a namespace that admits only restricted pods, an issuer, a caller, the policies
prepare() {
    kube create namespace "$NAMESPACE" >/dev/null
    kube label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=restricted >/dev/null
    ALICE=$(token alice viewer)
    kn create secret generic jwks --from-file="$STATE/jwks.json" >/dev/null
    kn create secret generic alice --from-literal=token="$ALICE" >/dev/null
    python3 "$here/values.py" >"$STATE/policies.json"
    until_true 30 "the namespace has its service account" kn get serviceaccount default
}

helm() { in_node "$HELM" --kubeconfig "$STATE/admin.kubeconfig" --namespace "$NAMESPACE" "$@"; }

# install <release> <option of helm…>: an app with the gate as its sidecar; returns when helm has applied the chart
install() {
    local release=$1
    shift
    helm install "$release" charts/cedargate --values "$here/values/gate.yaml" --values "$here/values/app.yaml" \
        --set fullnameOverride="$release" "$@" >"$LOGS/helm-$release.log" 2>&1 || {
        tail -n 5 "$LOGS/helm-$release.log"
        return 1
    }
}

# the pods of a release, without those of `helm test`
selector() { echo "app.kubernetes.io/instance=$1,app.kubernetes.io/name!=cedargate-test"; }
# names of the pods that are not about to end
pods() { kn get pods -l "$(selector "$1")" -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}'; }
pod_address() { kn get pods -l "$(selector "$1")" -o jsonpath='{.items[0].status.podIP}'; }
service_address() { kn get service "$1" -o jsonpath='{.spec.clusterIP}'; }
wait_ready() { kn rollout status "deployment/$1" --timeout="${2:-120s}" >/dev/null; }
# the gate's own answer, from inside of its container
gate() { # gate <release> <arguments of cedargate…>
    local pod
    pod=$(pods "$1" | sed -n 1p)
    shift
    kn exec "$pod" -c cedargate -- cedargate "$@"
}

# ask <base URL> <method> [token]: prints the status
ask() {
    local credentials=()
    if [ -n "${3:-}" ]; then credentials=(-H "Authorization: Bearer $3"); fi
    in_node curl -s -o "$STATE/body" -w '%{http_code}\n' --max-time 10 -X "$2" "${credentials[@]}" "$1$ORDERS" || true
}

# same <what> <seen> <expected>
same() {
    saw "$1: $2"
    if [ "$2" != "$3" ]; then
        echo "$1: $2, expected $3"
        return 1
    fi
}

# load_begin <url> [workers] [pause] [another url]; load_end sets LOADED to its line of JSON
load_begin() {
    # not through a function: its process, not a shell's, gets the signal
    nsenter --net=/run/netns/$NETNS -- "$STATE/load" -url "$1" -token "$ALICE" -workers "${2:-8}" -pause "${3:-5ms}" \
        -also "${4:-}" >"$STATE/load.json" 2>"$STATE/load.err" &
    LOAD=$!
    # it is in full swing
    sleep 1
}
load_end() {
    kill -TERM "$LOAD"
    wait "$LOAD" || true
    LOAD=
    LOADED=$(cat "$STATE/load.json")
    saw "load: $LOADED"
}
field() { python3 -c 'import json,sys; print(json.loads(sys.argv[1])'"$1"')' "$LOADED"; }
nothing_lost() {
    [ "$(field '["failed"]')" = 0 ] && [ "$(field '["status"]')" = "{'200': $(field '["sent"]')}" ]
}

check_installs_and_decides() {
    local from=$SECONDS base
    install shop --set replicas=2 --values "$STATE/policies.json"
    wait_ready shop
    saw "helm install, then 2 pods ready after $((SECONDS - from)) s: $(kn get pods -l "$(selector shop)" -o jsonpath='{range .items[*]}{.status.podIP} {end}')"
    saw "sidecar: $(kn get pods -l "$(selector shop)" -o jsonpath='{.items[0].spec.initContainers[0].name} restartPolicy={.items[0].spec.initContainers[0].restartPolicy} image={.items[0].spec.initContainers[0].image}')"
    base=http://$(pod_address shop):8900
    same "no token, through the pod's address" "$(ask "$base" GET)" 401
    same "a viewer places an order" "$(ask "$base" POST "$ALICE")" 403
    same "a viewer reads the orders" "$(ask "$base" GET "$ALICE")" 200
    grep 'user=alice tenant=acme' "$STATE/body"
    saw "the app saw: $(cat "$STATE/body")"
    helm test shop --timeout 60s >"$LOGS/helm-test.log" 2>&1
    same "pods of helm test that succeeded, one allow and one deny" "$(grep -c 'Phase: *Succeeded' "$LOGS/helm-test.log")" 2
    same "the same through the Service" "$(ask "http://$(service_address shop)" GET "$ALICE")" 200
}

check_ready_only_with_policies() {
    # the portal's folder comes from a ConfigMap that does not exist yet
    install late --set-json 'policies.configMaps=[{"name":"late-policies","folder":"policies/late","optional":true},{"name":"late-schemas","folder":"schemas","optional":true}]'
    until_true 60 "the gate of the pod runs" gate late healthcheck
    local pod ready
    pod=$(pods late)
    ready=$(kn get pod "$pod" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')
    same "without policies the pod is ready" "$ready" False
    saw "why: $(gate late healthcheck --ready 2>&1 | tr '\n' ' ' || true)"
    same "without policies a viewer gets" "$(ask "http://$(pod_address late):8900" GET "$ALICE")" 404
    printf 'permit (principal, action, resource);\n' >"$STATE/late.cedar"
    kn create configmap late-schemas --from-file=_shared.cedarschema=schemas/_shared.cedarschema >/dev/null
    kn create configmap late-policies --from-file=late.cedar="$STATE/late.cedar" >/dev/null
    local from=$SECONDS
    wait_ready late 180s
    saw "ready $((SECONDS - from)) s after the ConfigMaps came"
    helm_gone late
}

helm_gone() {
    helm uninstall "$1" --wait --timeout 90s >"$LOGS/helm-gone-$1.log" 2>&1 || true
}

check_probes_of_a_loopback_app() {
    install slow --values "$STATE/policies.json" --set 'workload.container.args={-start-delay,6s}'
    until_true 60 "the app is started, not ready" startup_refused slow
    saw "while it starts: $(kn get events --field-selector reason=Unhealthy -o jsonpath='{range .items[*]}{.message}{"\n"}{end}' | grep '/app/startupz\|Startup probe failed' | sed -n 1p)"
    wait_ready slow 90s
    saw "the app's probes ask: $(kn get pods -l "$(selector slow)" -o jsonpath='{.items[0].spec.containers[0].startupProbe.httpGet.path} {.items[0].spec.containers[0].readinessProbe.httpGet.path} {.items[0].spec.containers[0].livenessProbe.httpGet.path} on port {.items[0].spec.containers[0].livenessProbe.httpGet.port}')"
    same "restarts of the app" "$(kn get pods -l "$(selector slow)" -o jsonpath='{.items[0].status.containerStatuses[?(@.name=="app")].restartCount}')" 0
    helm_gone slow
}

startup_refused() {
    local started
    started=$(kn get pods -l "$(selector "$1")" -o jsonpath='{.items[0].status.containerStatuses[?(@.name=="app")].started}')
    [ "$started" = false ] && kn get events --field-selector reason=Unhealthy | grep 'Startup probe failed'
}

check_not_reachable_around_the_gate() {
    local address
    address=$(pod_address shop)
    same "connect to the app at $address:3000 (curl's exit code 7: refused)" \
        "$(in_node curl -s --max-time 5 "http://$address:3000/" >/dev/null; echo $?)" 7
    same "cedargate_app_reachable_around_gate" \
        "$(in_node curl -s "http://$address:8903/metrics" | sed -n 's/^cedargate_app_reachable_around_gate //p')" 0
    # an app that listens on all addresses: the gate says so
    install open --values "$STATE/policies.json" --set 'workload.container.args={-address,0.0.0.0:3000}' \
        --set config.upstream.exposure_check.interval=1s
    wait_ready open
    until_true 30 "the gate has noticed the open app" open_app_noticed
    saw "an app on 0.0.0.0: $(kn logs "$(pods open)" -c cedargate | grep 'reachable' | sed -n 1p | cut -c1-300)"
    helm_gone open
}

open_app_noticed() {
    in_node curl -s "http://$(pod_address open):8903/metrics" | grep '^cedargate_app_reachable_around_gate 1'
}

# the ConfigMap that holds a file of the tree, and its key there
policy_map() { kn get configmaps -o json | python3 -c '
import json, sys
key = sys.argv[1].replace("/", ".")
print(next(item["metadata"]["name"] for item in json.load(sys.stdin)["items"] if item["metadata"]["name"].startswith("shop") and key in item.get("data", {})))' "$1"; }

# edit <path> <sed script>: edits one file of the release `shop` in its ConfigMap
edit() {
    local map key=${1//\//.}
    map=$(policy_map "$1")
    kn get configmap "$map" -o json | python3 -c '
import json, subprocess, sys
item = json.load(sys.stdin)
old = item["data"][sys.argv[1]]
new = subprocess.run(["sed", sys.argv[2]], input=old, capture_output=True, text=True, check=True).stdout
assert old != new, "the edit changes nothing"
print(json.dumps({"data": {sys.argv[1]: new}}))' "$key" "$2" >"$STATE/patch.json"
    kn patch configmap "$map" --type merge --patch-file "$STATE/patch.json" >/dev/null
}

post_is() { [ "$(ask "$1" POST "$ALICE")" = "$2" ]; }

check_an_edit_arrives() {
    local base from
    base=http://$(service_address shop)
    same "before: a viewer places an order" "$(ask "$base" POST "$ALICE")" 403
    load_begin "$base$ORDERS"
    edit policies/customer/orders.cedar '/@id("editors-place-orders")/,/^);/s/Role::"editor"/Role::"viewer"/'
    from=$(date +%s%N)
    until_true 120 "the edit is in force" post_is "http://$(pod_address shop):8900" 200
    saw "after the edit of the ConfigMap: 200 on the first pod after $((($(date +%s%N) - from) / 1000000)) ms"
    for address in $(kn get pods -l "$(selector shop)" -o jsonpath='{range .items[*]}{.status.podIP} {end}'); do
        until_true 120 "the edit is in force at $address" post_is "http://$address:8900" 200
    done
    load_end
    nothing_lost
    edit policies/customer/orders.cedar '/@id("editors-place-orders")/,/^);/s/Role::"viewer"/Role::"editor"/'
    for address in $(kn get pods -l "$(selector shop)" -o jsonpath='{range .items[*]}{.status.podIP} {end}'); do
        until_true 120 "the edit is taken back at $address" post_is "http://$address:8900" 403
    done
    saw "taken back: 403"
}

# last_reload <portal>: its part of /status, on one line
last_reload() { in_node curl -s "http://$(pod_address shop):8903/status" | python3 -c '
import json, sys
print(next(json.dumps(p["last_reload"]) for p in json.load(sys.stdin)["portals"] if p["portal"] == sys.argv[1]))' "$1"; }
rejected() { [[ $(last_reload customer) == *'"result": "rejected"'* ]]; }
accepted() { [[ $(last_reload customer) == *'"result": "success"'* ]]; }

check_a_broken_edit_keeps_serving() {
    local base
    base=http://$(service_address shop)
    load_begin "$base$ORDERS"
    edit policies/customer/orders.cedar '/@id("viewers-read")/,/^);/s/Role::"viewer"/Role::"editor"/'
    until_true 120 "the gate has rejected the edit" rejected
    sleep 1
    load_end
    nothing_lost
    saw "status: $(last_reload customer | cut -c1-300)"
    same "the pods are ready" "$(kn get deployment shop -o jsonpath='{.status.readyReplicas}')" 2
    edit policies/customer/orders.cedar '/@id("viewers-read")/,/^);/s/Role::"editor"/Role::"viewer"/'
    until_true 120 "the gate has the good files again" accepted
    saw "taken back: accepted"
}

# quick and slow requests, on kept and on new connections
load_of_all_kinds() { load_begin "http://$(service_address shop)$ORDERS" 24 20ms "http://$(service_address shop)$ORDERS?slow"; }

check_a_rollout_loses_no_request() {
    load_of_all_kinds
    kn rollout restart deployment/shop >/dev/null
    wait_ready shop 240s
    until_true 120 "the old pods are gone" only_pods 2
    load_end
    nothing_lost
}

only_pods() { [ "$(kn get pods -l "$(selector shop)" -o name | wc -l)" -eq "$1" ]; }

check_a_deleted_pod_loses_no_request() {
    load_of_all_kinds
    kn delete pod "$(pods shop | sed -n 1p)" --timeout=120s >/dev/null
    wait_ready shop
    sleep 1
    load_end
    nothing_lost
}

check_memory_limit_holds() {
    local pod address pid
    pod=$(pods shop | sed -n 1p)
    address=$(kn get pod "$pod" -o jsonpath='{.status.podIP}')
    saw "limit: $(kn get pod "$pod" -o jsonpath='{.spec.initContainers[0].resources.limits.memory}')"
    load_begin "http://$address:8900$ORDERS" 64 1ms
    sleep "${CLUSTER_LOAD_SECONDS:-20}"
    pid=$(gate_process "$pod")
    saw "the gate's memory: $(awk '/^VmHWM|^VmRSS/ { printf "%s %.1f MiB  ", $1, $2 / 1024 }' "/proc/$pid/status")"
    load_end
    nothing_lost
    same "restarts of the gate" "$(kn get pod "$pod" -o jsonpath='{.status.initContainerStatuses[0].restartCount}')" 0
}

# the process of the gate in a pod, found by the pod's own id in its cgroup
gate_process() {
    local id pid
    id=$(kn get pod "$1" -o jsonpath='{.status.initContainerStatuses[0].containerID}')
    id=${id#containerd://}
    pid=$(ctr --address "$SOCKETS/containerd.sock" --namespace k8s.io tasks list | awk -v id="$id" '$1 == id { print $2 }')
    echo "$pid"
}

check_a_job_completes() {
    cp -R "$here/job" "$STATE/job"
    # from where the copy lies the library is elsewhere
    sed -i "s#file://.*#file://$PWD/charts/cedargate-lib#" "$STATE/job/Chart.yaml"
    helm dependency build "$STATE/job"
    python3 "$here/values.py" cedargate >"$STATE/job-policies.json"
    { echo "cedargate:"; sed 's/^/  /' "$here/values/gate.yaml"; } >"$STATE/job-gate.yaml"
    helm install work "$STATE/job" --values "$STATE/job-gate.yaml" --values "$STATE/job-policies.json"
    kn wait --for=condition=Complete job/work --timeout=90s
    saw "job: $(kn get job work -o jsonpath='succeeded={.status.succeeded} from {.status.startTime} to {.status.completionTime}')"
    local pod
    pod=$(kn get pods -l "$(selector work)" -o jsonpath='{.items[0].metadata.name}')
    saw "its log: $(kn logs "$pod" -c app)"
    same "the sidecar's end" "$(kn get pod "$pod" -o jsonpath='{.status.initContainerStatuses[0].state.terminated.exitCode}')" 0
    helm_gone work
}

check_inject_into_a_plain_deployment() {
    local files=$STATE/inject
    mkdir -p "$files"
    cp "$here/plain.yaml" "$files/plain.yaml"
    "$GATE" inject --write --image localhost/gate:test --policies customer=cedargate-policies "$files/plain.yaml"
    # the ConfigMaps of docs/inject.md, by its commands
    kn create configmap cedargate --from-file=cedargate.yaml="$here/values/plain-gate.yaml"
    cp -R policies/customer "$files/customer"
    rm -r "$files/customer/tests"
    kn create configmap cedargate-policies --from-file="$files/customer"
    kn create configmap cedargate-shared --from-file=policies/_shared
    kn create configmap cedargate-schemas --from-file=_shared.cedarschema=schemas/_shared.cedarschema \
        --from-file=customer.cedarschema=schemas/customer.cedarschema --from-file="$STATE/jwks.json"
    kn apply -f "$files/plain.yaml"
    wait_ready plain
    local pod address base
    pod=$(kn get pods -l app=plain -o jsonpath='{.items[0].metadata.name}')
    address=$(kn get pods -l app=plain -o jsonpath='{.items[0].status.podIP}')
    base=http://$(service_address plain)
    saw "sidecar: $(kn get pod "$pod" -o jsonpath='{.spec.initContainers[0].name} restartPolicy={.spec.initContainers[0].restartPolicy} image={.spec.initContainers[0].image}')"
    same "no token, through the Service" "$(ask "$base" GET)" 401
    same "a viewer places an order" "$(ask "$base" POST "$ALICE")" 403
    same "a viewer reads the orders" "$(ask "$base" GET "$ALICE")" 200
    grep 'user=alice tenant=acme' "$STATE/body"
    saw "the app saw: $(cat "$STATE/body")"
    same "connect to the app at $address:3000 (curl's exit code 7: refused)" \
        "$(in_node curl -s --max-time 5 "http://$address:3000/" >/dev/null; echo $?)" 7
    saw "the app's probes ask: $(kn get pod "$pod" -o jsonpath='{.spec.containers[0].readinessProbe.httpGet.path} {.spec.containers[0].livenessProbe.httpGet.path} on port {.spec.containers[0].livenessProbe.httpGet.port}')"
    same "restarts of the app" "$(kn get pod "$pod" -o jsonpath='{.status.containerStatuses[0].restartCount}')" 0
    "$GATE" inject --uninject --write "$files/plain.yaml"
    same "bytes that --uninject leaves different" "$(cmp "$files/plain.yaml" "$here/plain.yaml" | wc -l)" 0
    kn delete -f "$files/plain.yaml" --timeout=90s
    kn delete configmap cedargate cedargate-policies cedargate-shared cedargate-schemas
}
