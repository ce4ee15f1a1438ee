//! Volumes: directories of this machine as local persistent volumes, one StorageClass for each way that clusters offer them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::node::Node;
use crate::run;

/// Made for each claim by the lab's provisioner; the default class.
pub const DYNAMIC: &str = "lab-dynamic";
/// Like [`DYNAMIC`], but each volume has exactly the size asked for (a tmpfs), to meet a full disk.
pub const SMALL: &str = "lab-small";
/// Made beforehand by `lab volumes N`.
pub const STATIC: &str = "lab-static";
/// The provisioner's name in classes and annotations.
pub const PROVISIONER: &str = "understudy.dev/lab";

const MANAGER: &str = "understudy-lab";

/// The StorageClass with one of the names above.
pub fn class(name: &str) -> Value {
    let provisioner = if name == STATIC { "kubernetes.io/no-provisioner" } else { PROVISIONER };
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": (name == DYNAMIC).to_string()}},
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": if name == STATIC { "Retain" } else { "Delete" },
        "allowVolumeExpansion": false,
    })
}

/// A local volume on `node`.
pub fn local_volume(name: &str, class: &str, size: &str, node: &str, path: &Path) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": if class == STATIC { "Retain" } else { "Delete" },
            "storageClassName": class,
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]},
            ]}},
        },
    })
}

/// The directory behind a volume. Nodes are this machine, so its name alone tells it apart.
pub fn directory(lab: &Path, volume: &str) -> PathBuf {
    lab.join("volumes").join(volume)
}

/// Makes a volume's directory; mounted with `tmpfs` bytes when that is given. World-writable like other provisioners': fsGroup decides.
pub async fn make_directory(path: &Path, tmpfs: Option<&str>) -> Result<()> {
    fs::create_dir_all(path)?;
    let mounted = fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1) == path.to_str());
    if let Some(size) = tmpfs.filter(|_| !mounted) {
        run::output(run::command("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "lab-volume"]).arg(path)).await?;
    }
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o777))?)
}

/// Removes a volume's directory and what it held.
pub async fn remove_directory(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1) == path.to_str()) {
        run::output(run::command("umount").arg("-l").arg(path)).await?;
    }
    Ok(fs::remove_dir_all(path)?)
}

/// Makes `count` volumes of class [`STATIC`] with the given size, in turn on each node; those with the same name stay.
pub async fn make_static(lab: &Lab, count: usize, size: &str) -> Result<Vec<String>> {
    let nodes = Node::all(lab.dirs());
    ensure!(!nodes.is_empty(), "the lab has no nodes");
    let api = Api::<PersistentVolume>::all(lab.client().clone());
    let mut names = Vec::new();
    for (index, node) in (1..=count).zip(nodes.iter().cycle()) {
        let name = format!("static-{index}");
        let path = directory(&lab.dirs().lab, &name);
        make_directory(&path, None).await?;
        api.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(local_volume(&name, STATIC, size, &node.name(), &path))).await?;
        names.push(name);
    }
    Ok(names)
}
