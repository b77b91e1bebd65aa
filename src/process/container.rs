//! Which container a process lives in, and what runs a command in there.

use std::path::Path;

use super::{Process, mounts};

/// The most that is read of `/proc/PID/cgroup`.
const MOST_CGROUP: u64 = 64 << 10;

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// Kubernetes, whatever runs its containers.
    Kubernetes,
}

impl Engine {
    /// The one that we run in, if it left a mark: files that Docker and Podman put into each container, and the variable
    /// that Kubernetes sets in each.
    pub fn around_us() -> Option<Self> {
        // A machine that was made out of an image has the files, too.
        if in_pid_namespace() == Some(false) {
            return None;
        }
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            Some(Engine::Kubernetes)
        } else if Path::new("/run/.containerenv").exists() {
            Some(Engine::Podman)
        } else if Path::new("/.dockerenv").exists() {
            Some(Engine::Docker)
        } else {
            None
        }
    }

    /// The one that a process lives in, by the names that engines give to control groups.
    pub fn around(process: &Process) -> Option<Self> {
        by_cgroup(&mounts::read(process, "cgroup", MOST_CGROUP)?)
    }

    /// How `pgpoke` is run in the container `id` as a user.
    pub fn command(self, id: Option<&str>, user: &str, what: &str) -> String {
        let container = id.unwrap_or("CONTAINER");
        match self {
            Engine::Docker => format!("docker exec -u {user} {container} {what}"),
            Engine::Podman => format!("podman exec -u {user} {container} {what}"),
            // It has no option for the user.
            Engine::Kubernetes => match user.split_once(':') {
                Some((uid, gid)) => format!(
                    "kubectl exec POD -- setpriv --reuid={uid} --regid={gid} --clear-groups {what}"
                ),
                None => format!("kubectl exec POD -- su {user} -c '{what}'"),
            },
        }
    }
}

fn by_cgroup(text: &str) -> Option<Engine> {
    // kubelet, then libpod, then dockerd: pods may well be run by the latter.
    if text.contains("kubepods") {
        Some(Engine::Kubernetes)
    } else if text.contains("libpod") {
        Some(Engine::Podman)
    } else if text.contains("docker") {
        Some(Engine::Docker)
    } else {
        None
    }
}

/// The container's identifier: the last part of the control group's path that looks like one.
pub fn id(process: &Process) -> Option<String> {
    id_in(&mounts::read(process, "cgroup", MOST_CGROUP)?)
}

fn id_in(text: &str) -> Option<String> {
    text.split(['/', '\n', '-', '.', ':'])
        .find(|part| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(|id| id[..12].to_owned())
}

/// Whether we live in a PID namespace that is not the machine's: then there are processes that we cannot see.
pub fn in_pid_namespace() -> Option<bool> {
    is_not_initial("pid", 0xeffffffc)
}

/// Whether we live in a user namespace that is not the machine's: then our capabilities do not count outside of it.
pub fn in_user_namespace() -> Option<bool> {
    is_not_initial("user", 0xeffffffd)
}

/// The first namespaces have fixed inode numbers (`PROC_PID_INIT_INO` and its kin, include/linux/proc_ns.h).
fn is_not_initial(kind: &str, initial: u32) -> Option<bool> {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    Some(link.to_str()? != format!("{kind}:[{initial}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_identifiers_as_control_groups_name_them() {
        let hash = "0123456789abcdef".repeat(4);
        let rows = [
            (
                format!("0::/system.slice/docker-{hash}.scope\n"),
                Some(Engine::Docker),
            ),
            (format!("4:memory:/docker/{hash}\n"), Some(Engine::Docker)),
            (
                format!("0::/machine.slice/libpod-{hash}.scope/container\n"),
                Some(Engine::Podman),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{hash}.scope\n"
                ),
                Some(Engine::Kubernetes),
            ),
            (format!("0::/lxc/{hash}\n"), None),
        ];
        for (text, engine) in rows {
            assert_eq!(by_cgroup(&text), engine, "{text}");
            assert_eq!(id_in(&text).as_deref(), Some("0123456789ab"), "{text}");
        }
        assert_eq!(id_in("0::/user.slice\n"), None);
    }

    #[test]
    fn each_engine_has_its_command() {
        let what = "pgpoke …";
        assert_eq!(
            Engine::Docker.command(Some("0123456789ab"), "postgres", what),
            "docker exec -u postgres 0123456789ab pgpoke …"
        );
        assert_eq!(
            Engine::Podman.command(None, "999:999", what),
            "podman exec -u 999:999 CONTAINER pgpoke …"
        );
        assert_eq!(
            Engine::Kubernetes.command(None, "postgres", what),
            "kubectl exec POD -- su postgres -c 'pgpoke …'"
        );
    }
}
