"""Lays out the volumes of a rendered pod as kubelet does, so that the real gate can be run on them.

ConfigMaps, Secrets and projected volumes become folders with a `..data` symlink that is swapped at once; a mount below another
mount becomes a folder inside of it, and an optional ConfigMap that does not exist becomes an empty folder.
"""

import os
import shutil
from pathlib import Path


class Kubelet:
    def __init__(self, root, objects, secrets=None):
        """`objects`: rendered manifests. `secrets`: name to {key: text}, for Secrets and ConfigMaps that users bring."""
        self.root = Path(root)
        self.maps = {o["metadata"]["name"]: o.get("data", {}) for o in objects if o["kind"] == "ConfigMap"}
        self.maps |= secrets or {}
        self.versions = {}

    def mount(self, pod, container):
        """Makes every mount of the container below the root. Mounts that lie inside of others come last."""
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in sorted(container["volumeMounts"], key=lambda mount: mount["mountPath"]):
            assert "subPath" not in mount, f"{mount}: kubelet never updates a subPath"
            folder = self.root / mount["mountPath"].lstrip("/")
            self.refuse_symlinks(folder)
            folder.mkdir(parents=True, exist_ok=True)
            volume = volumes[mount["name"]]
            if "emptyDir" in volume or "persistentVolumeClaim" in volume:
                continue
            self.write(folder, self.files(volume))

    def refuse_symlinks(self, folder):
        """A mount below a symlink of another volume vanishes with that volume's next update."""
        while folder != self.root:
            assert not folder.is_symlink(), f"{folder} is a symlink of another volume"
            folder = folder.parent

    def files(self, volume):
        sources = volume.get("projected", {}).get("sources") or [
            {kind: volume[kind]} for kind in ("configMap", "secret") if kind in volume
        ]
        files = {}
        for source in sources:
            [(_, about)] = source.items()
            name = about.get("name") or about["secretName"]
            if name not in self.maps:
                assert about.get("optional"), f"{volume['name']}: there is no `{name}`"
                continue
            data = self.maps[name]
            items = about.get("items") or [{"key": key, "path": key} for key in data]
            for item in items:
                assert item["path"] not in files, f"{volume['name']}: two sources give {item['path']}"
                files[item["path"]] = data[item["key"]]
        return files

    def write(self, folder, files):
        """One atomic update: a new folder, a rename of `..data`, then the links that users see."""
        version = self.versions[folder] = self.versions.get(folder, 0) + 1
        new = folder / f"..2026_01_01_{version}"
        for path, text in files.items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        new.mkdir(exist_ok=True)
        data = folder / "..data"
        old = data.resolve() if data.is_symlink() else None
        os.symlink(new.name, folder / "..data_tmp")
        os.rename(folder / "..data_tmp", data)
        for top in {path.split("/")[0] for path in files}:
            link = folder / top
            if not link.is_symlink():
                os.symlink(f"..data/{top}", link)
        if old:
            shutil.rmtree(old)
