//! Why the kernel does not let us trace a process: which rule, and what to type next.

use std::fmt;

use super::Process;

/// `<linux/capability.h>`
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What the kernel's rules for tracing (ptrace(2), "Ptrace access mode checking") look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    our_uid: u32,
    target_uid: Option<u32>,
    /// Real, effective and saved user and group of the target all match ours.
    same_user: bool,
    has_capability: bool,
    same_user_namespace: bool,
    /// kernel.yama.ptrace_scope; none where Yama is not built in.
    yama: Option<u8>,
    tracer: i32,
    seccomp: bool,
    in_container: bool,
    pid: i32,
}

impl Permission {
    /// Looks at `process` and at ourselves. Needs no right over the process.
    pub fn examine(process: &Process) -> Self {
        let ours = procfs::process::Process::myself().and_then(|p| p.status());
        let theirs = process.status();
        let same_user = matches!((&ours, &theirs), (Ok(us), Ok(them))
            if [them.ruid, them.euid, them.suid] == [us.fuid; 3]
                && [them.rgid, them.egid, them.sgid] == [us.fgid; 3]);
        let user_namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let target_namespace = user_namespace(&process.pid().to_string());
        Permission {
            our_uid: nix::unistd::geteuid().as_raw(),
            target_uid: theirs.as_ref().ok().map(|s| s.euid),
            same_user,
            has_capability: ours
                .as_ref()
                .is_ok_and(|us| us.capeff & CAP_SYS_PTRACE != 0),
            // The link of a process that we may not trace cannot be read; then nothing is claimed.
            same_user_namespace: target_namespace.is_none()
                || target_namespace == user_namespace("self"),
            yama: std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
                .ok()
                .and_then(|t| t.trim().parse().ok()),
            tracer: theirs.as_ref().map_or(0, |s| s.tracerpid),
            seccomp: ours.is_ok_and(|us| us.seccomp == Some(2)),
            in_container: std::path::Path::new("/.dockerenv").exists()
                || std::path::Path::new("/run/.containerenv").exists()
                || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            pid: process.pid(),
        }
    }

    /// The rule that denies it, in one sentence.
    pub fn rule(&self) -> String {
        let target = self.target_uid.map(user_name);
        let target = target.as_deref().unwrap_or("another user");
        if self.tracer != 0 {
            format!("it is traced already, by process {}", self.tracer)
        } else if self.yama == Some(3) {
            "kernel.yama.ptrace_scope is 3: nobody may trace anything until the next boot".into()
        } else if self.has_capability && !self.same_user_namespace {
            "it lives in another user namespace, where our CAP_SYS_PTRACE does not count".into()
        } else if self.has_capability {
            let seccomp = if self.seccomp {
                "a seccomp filter is in force on us, and "
            } else {
                ""
            };
            format!(
                "we have CAP_SYS_PTRACE, so {seccomp}a security module (SELinux's deny_ptrace, AppArmor) denies it"
            )
        } else if !self.same_user {
            format!(
                "it runs as {target}, we run as {}{}{}",
                user_name(self.our_uid),
                if self.our_uid == 0 { " but" } else { "," },
                " without CAP_SYS_PTRACE",
            )
        } else {
            match self.yama {
                Some(scope @ 1..) => format!(
                    "kernel.yama.ptrace_scope is {scope}, and we run without CAP_SYS_PTRACE: the same user is not enough"
                ),
                _ => "we run as the same user, so a seccomp filter or a security module denies it, or it is not dumpable".into(),
            }
        }
    }

    /// The one thing to type next.
    pub fn next_step(&self) -> String {
        let target = self.target_uid.map(user_name);
        let target = target.as_deref().unwrap_or("postgres");
        if self.tracer != 0 {
            return format!(
                "end the other tracer (ps -o pid,args -p {}), then try again",
                self.tracer
            );
        }
        match (self.yama, self.same_user, self.our_uid == 0) {
            (Some(3), _, _) => "no command helps until the next boot".into(),
            (Some(2), _, false) => "run pgpoke as root: sudo pgpoke …".into(),
            (_, false, true) if self.in_container => format!(
                "run it as the server's own user, which needs no capability: docker exec -u {target} CONTAINER pgpoke …"
            ),
            (_, false, true) => format!(
                "run it as the server's own user, which needs no capability: setpriv --reuid={target} --regid={target} --init-groups pgpoke …, in a container: docker exec -u {target} CONTAINER pgpoke …"
            ),
            (_, false, false) => format!("sudo -u {target} pgpoke …, or as root: sudo pgpoke …"),
            (Some(1), true, _) => {
                "run pgpoke as root: sudo pgpoke … (or, for now: sysctl kernel.yama.ptrace_scope=0)"
                    .into()
            }
            (_, true, _) => "run pgpoke as root on the host: sudo pgpoke …".into(),
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule())?;
        let yama = match self.yama {
            Some(scope) => scope.to_string(),
            None => "not built into this kernel".into(),
        };
        write!(f, " (Yama's ptrace_scope: {yama})")
    }
}

/// The name of a user, or the number where there is none.
fn user_name(uid: u32) -> String {
    nix::unistd::User::from_uid(uid.into())
        .ok()
        .flatten()
        .map_or_else(|| format!("uid {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Permission {
        Permission {
            our_uid: 1000,
            target_uid: Some(0),
            same_user: false,
            has_capability: false,
            same_user_namespace: true,
            yama: None,
            tracer: 0,
            seccomp: false,
            in_container: false,
            pid: 1,
        }
    }

    #[test]
    fn each_rule_has_its_own_words() {
        let p = base();
        assert!(p.rule().contains("runs as root, we run as"), "{}", p.rule());
        assert!(p.next_step().starts_with("sudo -u root"));

        let p = Permission {
            our_uid: 0,
            target_uid: Some(1),
            ..base()
        };
        assert!(p.rule().contains("root but without CAP_SYS_PTRACE"));
        assert!(p.next_step().contains("docker exec -u daemon"));

        let p = Permission {
            same_user: true,
            yama: Some(1),
            ..base()
        };
        assert!(p.rule().contains("ptrace_scope is 1"));
        assert!(p.next_step().contains("as root"));

        let p = Permission {
            yama: Some(3),
            has_capability: true,
            ..base()
        };
        assert!(p.rule().contains("until the next boot"));

        let p = Permission {
            tracer: 77,
            ..base()
        };
        assert!(p.rule().contains("by process 77"));
        assert!(p.next_step().contains("-p 77"));
    }
}
