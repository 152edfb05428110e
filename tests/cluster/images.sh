# The images of the cluster's test: the gate's own image from the Dockerfile, the app, and a pause for the sandboxes.
# Sourced by `run`. There is no registry: podman builds into a store of its own, and containerd gets tar files.

build_images() {
    mkdir -p "$STATE/images" "$STATE/context/dist"
    local arch
    arch=$(go env GOARCH)
    strip -o "$STATE/context/cedargate" "$GATE"
    .ci/image-root "$STATE/context/cedargate" "$STATE/context/dist/image-$arch.tar"
    cp Dockerfile "$STATE/context/"
    podman_build gate --target prebuilt --build-arg "TARGETARCH=$arch" "$STATE/context"

    mkdir -p "$STATE/app" "$STATE/pause"
    (cd "$here/go" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$STATE/app/app" ./app)
    (cd "$here/go" && CGO_ENABLED=0 go build -trimpath -o "$STATE/load" ./load)
    printf 'FROM scratch\nCOPY app /app\nUSER 65532:65532\nENTRYPOINT ["/app"]\n' >"$STATE/app/Dockerfile"
    podman_build app "$STATE/app"

    cc -static -O2 -o "$STATE/pause/pause" "$here/pause.c"
    printf 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n' >"$STATE/pause/Dockerfile"
    podman_build pause "$STATE/pause"
}

# podman_build <name> <arguments…>: builds localhost/<name>:test and writes it to $STATE/images/<name>.tar
podman_build() {
    local name=$1
    shift
    local podman=(podman --root "$STATE/podman/root" --runroot "$STATE/podman/run" --events-backend file --cgroup-manager cgroupfs)
    "${podman[@]}" build --quiet --format docker --isolation chroot --tag "localhost/$name:test" "$@" >"$LOGS/image-$name.log" 2>&1 || {
        cat "$LOGS/image-$name.log" >&2
        return 1
    }
    "${podman[@]}" save --quiet --format docker-archive --output "$STATE/images/$name.tar" "localhost/$name:test"
    printf '  localhost/%s:test, %s compressed\n' "$name" "$(gzip -c "$STATE/images/$name.tar" | wc -c | awk '{ printf "%.1f MiB", $1 / 1048576 }')"
}
