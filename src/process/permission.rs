//! Why the kernel does not let us trace a process: which rule, and what to type next.
//!
//! The rules are those of ptrace(2), "Ptrace access mode checking" (`__ptrace_may_access()`, kernel/ptrace.c). What they
//! look at is collected first, as plain data; which rule it was is found from that.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::container::{self, Engine};
use super::{Process, mounts, passwd};
use crate::sys;

/// `<linux/capability.h>`
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What gVisor's kernel, a program, says of itself in `/proc/version` (pkg/sentry/kernel/version.go, `Version`).
const GVISOR: &str = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/// A user, by numbers and, where it is known, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The name, where passwd has one.
    pub name: Option<String>,
}

impl User {
    /// In a sentence.
    fn describe(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| format!("uid {}", self.uid))
    }

    /// As `docker exec -u` takes it.
    fn typed(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.numbers())
    }

    /// The same, whatever its name stands for.
    fn numbers(&self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

/// One of a process's six ids (credentials(7)) that is not the one that we go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Difference {
    what: &'static str,
    theirs: u32,
    ours: u32,
}

impl Difference {
    /// The first: `__ptrace_may_access()` wants all of them to be our fsuid and fsgid.
    fn between(us: &procfs::process::Status, them: &procfs::process::Status) -> Option<Self> {
        [
            ("effective user", them.euid, us.fuid),
            ("real user", them.ruid, us.fuid),
            ("saved user", them.suid, us.fuid),
            ("effective group", them.egid, us.fgid),
            ("real group", them.rgid, us.fgid),
            ("saved group", them.sgid, us.fgid),
        ]
        .into_iter()
        .find(|(_, theirs, ours)| theirs != ours)
        .map(|(what, theirs, ours)| Difference { what, theirs, ours })
    }

    fn is_of_group(self) -> bool {
        self.what.ends_with("group")
    }
}

/// What the kernel's rules for tracing look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    pid: i32,
    /// Its PID in the innermost PID namespace, where that is not ours.
    inner_pid: Option<i32>,
    us: User,
    them: Option<User>,
    /// Real, effective and saved user and group of the target all match ours.
    same_user: bool,
    /// The first of them that does not.
    difference: Option<Difference>,
    has_capability: bool,
    /// Its permitted capabilities are not all among our effective ones (cap_ptrace_access_check(),
    /// security/commoncap.c); none where that is unknown.
    has_more_capabilities: Option<bool>,
    /// Whether it lives in our user namespace; none where that cannot be told.
    same_user_namespace: Option<bool>,
    /// We live in a user namespace that is not the machine's.
    in_user_namespace: bool,
    /// Whether it may be dumped; none where that cannot be told.
    dumpable: Option<bool>,
    /// fs.suid_dumpable
    suid_dumpable: Option<u8>,
    /// What only who may trace a process may read of it can be read: what is denied is to attach.
    may_look: bool,
    /// kernel.yama.ptrace_scope; none where Yama is not built in.
    yama: Option<u8>,
    /// Who traces it, with the program's name.
    tracer: Option<(i32, Option<String>)>,
    /// It stands still for a tracer that we cannot see.
    hidden_tracer: bool,
    /// ptrace(2) is denied to us whatever it is asked: no rule about processes does that.
    call_denied: bool,
    /// SELinux' boolean deny_ptrace.
    deny_ptrace: bool,
    /// Our label, and its label, in the eyes of a security module that has some.
    labels: Option<(String, Option<String>)>,
    gvisor: bool,
    /// What we run in, and what it runs in.
    engines: (Option<Engine>, Option<Engine>),
    container: Option<String>,
}

/// The rule that denied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "rule")]
pub enum Rule {
    /// Another process traces it.
    Tracer,
    /// It is another user's.
    User,
    /// We are privileged in a user namespace that it is not in.
    UserNamespace,
    /// Its memory may not be dumped, and so not be read.
    NotDumpable,
    /// It has capabilities that we have not.
    Capabilities,
    /// Yama.
    Yama,
    /// A seccomp filter on ourselves.
    Seccomp,
    /// SELinux, AppArmor or one of their kin.
    SecurityModule,
    /// gVisor.
    Gvisor,
    /// None that we know of.
    Unknown,
}

impl Rule {
    /// Its stable name.
    pub fn code(self) -> &'static str {
        match self {
            Rule::Tracer => "tracer",
            Rule::User => "user",
            Rule::UserNamespace => "user-namespace",
            Rule::NotDumpable => "not-dumpable",
            Rule::Capabilities => "capabilities",
            Rule::Yama => "yama",
            Rule::Seccomp => "seccomp",
            Rule::SecurityModule => "security-module",
            Rule::Gvisor => "gvisor",
            Rule::Unknown => "unknown",
        }
    }
}

impl Permission {
    /// Looks at `process` and at ourselves. Needs no right over the process.
    pub fn examine(process: &Process) -> Self {
        let ours = procfs::process::Process::myself().and_then(|p| p.status());
        let theirs = process.status();
        let both = ours.as_ref().ok().zip(theirs.as_ref().ok());
        let difference = both.and_then(|(us, them)| Difference::between(us, them));
        let inner_pid = process.inner_pid().ok().filter(|p| *p != process.pid());
        let tracer = theirs.as_ref().map_or(0, |s| s.tracerpid);
        let us = nix::unistd::geteuid().as_raw();
        Permission {
            pid: process.pid(),
            inner_pid,
            us: User {
                uid: us,
                gid: nix::unistd::getegid().as_raw(),
                name: passwd::name_here(us),
            },
            them: theirs.as_ref().ok().map(|s| User {
                uid: s.euid,
                gid: s.egid,
                name: match inner_pid {
                    // The container's users are not ours, whatever number they have.
                    Some(_) => passwd::name_inside(process, s.euid),
                    None => passwd::name_here(s.euid),
                },
            }),
            same_user: both.is_some() && difference.is_none(),
            difference,
            has_capability: ours
                .as_ref()
                .is_ok_and(|us| us.capeff & CAP_SYS_PTRACE != 0),
            has_more_capabilities: both.map(|(us, them)| them.capprm & !us.capeff != 0),
            same_user_namespace: same_user_namespace(process),
            in_user_namespace: container::in_user_namespace() == Some(true),
            dumpable: dumpable(process, theirs.as_ref().ok().map(|s| s.euid)),
            suid_dumpable: number_in("/proc/sys/fs/suid_dumpable"),
            // proc_pid_get_link() and its kin (fs/proc/base.c) ask for PTRACE_MODE_READ.
            may_look: process.executable().is_ok(),
            yama: number_in("/proc/sys/kernel/yama/ptrace_scope"),
            tracer: (tracer != 0).then(|| (tracer, name_of(tracer))),
            hidden_tracer: tracer == 0 && process.state() == Some('t'),
            call_denied: sys::ptrace_is_denied(),
            deny_ptrace: number_in("/sys/fs/selinux/booleans/deny_ptrace") == Some(1),
            labels: label_of_us().map(|ours| (ours, label(process))),
            gvisor: std::fs::read_to_string("/proc/version").is_ok_and(|v| v.contains(GVISOR)),
            engines: (Engine::around_us(), Engine::around(process)),
            container: container::id(process),
        }
    }

    /// The rule that denies it.
    pub fn rule(&self) -> Rule {
        let counts = self.has_capability && !self.is_foreign_capability();
        if self.call_denied && self.may_look {
            if self.gvisor {
                Rule::Gvisor
            } else {
                Rule::Seccomp
            }
        } else if self.yama == Some(3) {
            Rule::Yama
        } else if !self.may_look && !counts {
            match self {
                p if p.is_foreign_capability() => Rule::UserNamespace,
                p if !p.same_user => Rule::User,
                // cap_ptrace_access_check() (security/commoncap.c) compares namespaces before it compares capabilities.
                p if p.same_user_namespace == Some(false) => Rule::UserNamespace,
                p if p.dumpable == Some(false) => Rule::NotDumpable,
                p if p.has_more_capabilities == Some(true) => Rule::Capabilities,
                p => p.rule_of_a_module(),
            }
        } else if self.tracer.is_some() || self.hidden_tracer {
            Rule::Tracer
        } else if !counts && matches!(self.yama, Some(1..)) {
            Rule::Yama
        } else {
            self.rule_of_a_module()
        }
    }

    /// We have the capability in a user namespace of ours, and it is not known to live in there.
    fn is_foreign_capability(&self) -> bool {
        self.has_capability && self.in_user_namespace && self.same_user_namespace != Some(true)
    }

    fn rule_of_a_module(&self) -> Rule {
        if self.deny_ptrace || self.labels.is_some() {
            Rule::SecurityModule
        } else if self.gvisor {
            Rule::Gvisor
        } else {
            Rule::Unknown
        }
    }

    /// What differs where the effective user, which is the one that we name, does not.
    fn beside_the_user(&self) -> Option<Difference> {
        self.difference.filter(|d| d.what != "effective user")
    }

    fn another_user(&self, them: &str) -> String {
        match self.beside_the_user() {
            Some(Difference { what, theirs, ours }) => format!(
                "it runs as {them} as we do, but its {what} is {theirs} and ours is {ours}, and we run without CAP_SYS_PTRACE: all have to be the same"
            ),
            None => format!(
                "it runs as {them}, we run as {}{} without CAP_SYS_PTRACE",
                self.us.describe(),
                if self.us.uid == 0 { " but" } else { "," },
            ),
        }
    }

    /// The rule, in one sentence.
    pub fn sentence(&self) -> String {
        let them = self
            .them
            .as_ref()
            .map_or_else(|| "another user".into(), User::describe);
        match self.rule() {
            Rule::Tracer => match &self.tracer {
                Some((pid, Some(name))) => {
                    format!("it is traced already, by process {pid} ({name})")
                }
                Some((pid, None)) => format!("it is traced already, by process {pid}"),
                None => "it is traced already, by a process outside of this PID namespace".into(),
            },
            Rule::User => self.another_user(&them),
            Rule::UserNamespace => {
                "it lives in another user namespace, where our capabilities do not count".into()
            }
            Rule::NotDumpable => format!(
                "it runs as {them} as we do, but is not dumpable: its memory is for root only{}",
                match self.suid_dumpable {
                    Some(1) | None => String::new(),
                    Some(n) => format!(
                        " (it changed its user or called prctl(PR_SET_DUMPABLE); fs.suid_dumpable is {n})"
                    ),
                }
            ),
            Rule::Capabilities => {
                "it runs as the same user, but has capabilities that we have not".into()
            }
            Rule::Yama => match self.yama {
                Some(3) => {
                    "kernel.yama.ptrace_scope is 3: nobody may trace anything until the next boot"
                        .into()
                }
                scope => format!(
                    "kernel.yama.ptrace_scope is {}, and we run without CAP_SYS_PTRACE: the same user is not enough",
                    scope.unwrap_or(1)
                ),
            },
            Rule::Seccomp => "a seccomp filter denies us every ptrace(2) call".into(),
            Rule::SecurityModule if self.deny_ptrace => {
                "SELinux denies it: its boolean deny_ptrace is on".into()
            }
            Rule::SecurityModule => {
                let (ours, theirs) = self.labels.clone().unwrap_or_default();
                format!(
                    "no rule of the kernel's own denies it, so a security module does (SELinux, AppArmor or another): our label is {ours}, its label {}",
                    theirs.as_deref().unwrap_or("not to be read")
                )
            }
            Rule::Gvisor => {
                "this is gVisor, whose kernel does not offer what is needed to trace".into()
            }
            Rule::Unknown => "no rule that we know of denies it, and still it is denied".into(),
        }
    }

    /// The one thing to type next.
    pub fn next_step(&self) -> String {
        // The group that a name stands for may be the very one that it has not.
        let typed = match self.difference.is_some_and(Difference::is_of_group) {
            true => User::numbers,
            false => User::typed,
        };
        let user = self.them.as_ref().map_or_else(|| "postgres".into(), typed);
        let root = match self.engines.0 {
            None => "run pgpoke as root: sudo pgpoke …".to_owned(),
            Some(_) => {
                "run pgpoke as root on the host, where it is another PID: sudo pgpoke …".to_owned()
            }
        };
        match self.rule() {
            Rule::Tracer => match &self.tracer {
                Some((pid, _)) => {
                    format!("end the other tracer (ps -o pid,args -p {pid}), then try again")
                }
                None => "look for the other tracer on the host: grep TracerPid /proc/[0-9]*/status"
                    .into(),
            },
            Rule::User => self.as_its_user(&user),
            Rule::UserNamespace => {
                "run pgpoke outside of that namespace, as root on the host: sudo pgpoke …".into()
            }
            Rule::Unknown if self.has_capability => {
                "ask the kernel's log who denied it: dmesg | tail".into()
            }
            Rule::NotDumpable | Rule::Capabilities | Rule::Unknown => root,
            Rule::Yama => match self.yama {
                Some(3) => "no command helps until the next boot".into(),
                Some(2) => root,
                _ => format!("{root} (or, for now: sysctl kernel.yama.ptrace_scope=0)"),
            },
            Rule::Seccomp => match self.engines.0 {
                Some(Engine::Kubernetes) => {
                    "run pgpoke as root on the node, where it is another PID: sudo pgpoke …".into()
                }
                Some(_) => format!(
                    "{root} (or start the container with --security-opt seccomp=unconfined)"
                ),
                None => "run pgpoke outside of what set the filter: in a plain login, or as root on the host"
                    .into(),
            },
            Rule::SecurityModule if self.deny_ptrace => {
                "setsebool deny_ptrace off (as root; setsebool deny_ptrace on afterwards)".into()
            }
            Rule::SecurityModule => {
                "ask its log who denied what: ausearch -m AVC -ts recent, or: dmesg | grep -i apparmor".into()
            }
            Rule::Gvisor => "run pgpoke on a server that does not run under gVisor (runsc): it cannot work here".into(),
        }
    }

    /// What to type to become the user that it runs as.
    fn as_its_user(&self, user: &str) -> String {
        let way = "run it as the server's own user, which needs no capability";
        if let Some(engine) = self.engines.0 {
            return format!("{way}: {}", engine.command(None, user, "pgpoke …"));
        }
        let elsewhere = self.inner_pid.zip(self.engines.1);
        match (elsewhere, self.us.uid) {
            // Its users have other numbers here than inside.
            (Some(_), _) if self.same_user_namespace == Some(false) => {
                "run pgpoke as root: sudo pgpoke …".into()
            }
            (Some((inner, engine)), _) => {
                let id = self.container.as_deref();
                let what = format!("pgpoke inspect {inner}");
                let first = if self.us.uid == 0 { "" } else { "sudo " };
                format!(
                    "{way}: {first}{} (it is PID {inner} in there)",
                    engine.command(id, user, &what)
                )
            }
            (None, 0) => {
                let groups = match user.split_once(':') {
                    // One without a name here, or in another group than its own.
                    Some((uid, gid)) => format!("--reuid={uid} --regid={gid} --clear-groups"),
                    None => format!("--reuid={user} --regid={user} --init-groups"),
                };
                format!(
                    "{way}: setpriv {groups} pgpoke …, in a container: docker exec -u {user} CONTAINER pgpoke …"
                )
            }
            (None, _) if self.inner_pid.is_some() => "run pgpoke as root: sudo pgpoke …".into(),
            (None, _) if user == "root" => "run pgpoke as root: sudo pgpoke …".into(),
            (None, _) => match user.split_once(':') {
                Some((uid, gid)) => {
                    format!("sudo -u '#{uid}' -g '#{gid}' pgpoke …, or as root: sudo pgpoke …")
                }
                None => format!("sudo -u {user} pgpoke …, or as root: sudo pgpoke …"),
            },
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        let yama = match self.yama {
            Some(scope) => scope.to_string(),
            None => "not built into this kernel".into(),
        };
        write!(f, " (Yama's ptrace_scope: {yama})")
    }
}

/// Whether it lives in our user namespace. The link names it, for who may look; the map of users is for all to read, and
/// shows another namespace's in other numbers than one's own (user_namespaces(7)).
fn same_user_namespace(process: &Process) -> Option<bool> {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    if let Some(theirs) = link(&process.pid().to_string()) {
        return Some(Some(theirs) == link("self"));
    }
    let theirs = mounts::read(process, "uid_map", 16 << 10)?;
    let ours = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    Some(theirs == ours)
}

/// By who owns its files in `/proc`: its user, or root (or the root of its user namespace) if it may not be dumped.
fn dumpable(process: &Process, uid: Option<u32>) -> Option<bool> {
    let (owner, uid) = (process.owner_of_files()?, uid?);
    (uid != 0).then_some(owner == uid)
}

/// The name of a process.
pub fn name_of(pid: i32) -> Option<String> {
    let name = mounts::read(&Process::open(pid).ok()?, "comm", 64)?;
    let name = crate::process::printable(name.trim_end());
    (!name.is_empty()).then_some(name)
}

/// A number that is all that a file of the kernel's says; of two the first (SELinux' booleans: now, and pending).
fn number_in(path: &str) -> Option<u8> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// What a security module calls a process; none where there is no such module, or it confines nobody.
fn label(process: &Process) -> Option<String> {
    let text = mounts::read(process, "attr/current", 4 << 10)?;
    let text = crate::process::printable(text.trim_end_matches(['\0', '\n', ' ']));
    (!text.is_empty()).then_some(text)
}

/// Our own label, where it confines us.
fn label_of_us() -> Option<String> {
    let us = Process::open(std::process::id() as i32).ok()?;
    label(&us).filter(|l| l != "unconfined" && l != "kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, name: &str) -> User {
        User {
            uid,
            gid: uid,
            name: Some(name.to_owned()),
        }
    }

    /// A user who looks at another one's process.
    fn base() -> Permission {
        Permission {
            pid: 4711,
            inner_pid: None,
            us: user(1000, "alice"),
            them: Some(user(999, "postgres")),
            same_user: false,
            difference: None,
            has_capability: false,
            has_more_capabilities: Some(false),
            same_user_namespace: Some(true),
            in_user_namespace: false,
            dumpable: Some(true),
            suid_dumpable: Some(0),
            may_look: false,
            yama: None,
            tracer: None,
            hidden_tracer: false,
            call_denied: false,
            deny_ptrace: false,
            labels: None,
            gvisor: false,
            engines: (None, None),
            container: None,
        }
    }

    /// The same user, who may look, and still may not attach.
    fn same() -> Permission {
        Permission {
            us: user(999, "postgres"),
            same_user: true,
            may_look: true,
            ..base()
        }
    }

    /// root, without the capability.
    fn root() -> Permission {
        Permission {
            us: user(0, "root"),
            ..base()
        }
    }

    #[track_caller]
    fn check(p: &Permission, rule: Rule, sentence: &str, next: &str) {
        assert_eq!(p.rule(), rule);
        assert!(p.sentence().contains(sentence), "{}", p.sentence());
        assert!(p.next_step().contains(next), "{}", p.next_step());
    }

    #[test]
    fn another_user() {
        let p = base();
        check(
            &p,
            Rule::User,
            "runs as postgres, we run as alice, without",
            "sudo -u postgres pgpoke",
        );
        let p = root();
        check(
            &p,
            Rule::User,
            "root but without CAP_SYS_PTRACE",
            "setpriv --reuid=postgres",
        );
        // In the container it lives in.
        for (engine, next) in [
            (Engine::Docker, "docker exec -u postgres CONTAINER pgpoke"),
            (Engine::Podman, "podman exec -u postgres CONTAINER pgpoke"),
            (Engine::Kubernetes, "kubectl exec POD -- su postgres"),
        ] {
            let p = Permission {
                engines: (Some(engine), None),
                ..root()
            };
            check(&p, Rule::User, "root but", next);
        }
        // On the host of that container.
        let p = Permission {
            inner_pid: Some(42),
            engines: (None, Some(Engine::Podman)),
            container: Some("0123456789ab".into()),
            them: Some(User {
                name: None,
                ..user(999, "")
            }),
            ..base()
        };
        check(
            &p,
            Rule::User,
            "runs as uid 999",
            "sudo podman exec -u 999:999 0123456789ab pgpoke inspect 42",
        );
    }

    #[test]
    fn the_same_user_in_another_group() {
        let other = |what, theirs| Permission {
            difference: Some(Difference {
                what,
                theirs,
                ours: 999,
            }),
            same_user: false,
            may_look: false,
            ..same()
        };
        let p = Permission {
            them: Some(User {
                gid: 101,
                ..user(999, "postgres")
            }),
            ..other("effective group", 101)
        };
        check(
            &p,
            Rule::User,
            "runs as postgres as we do, but its effective group is 101 and ours is 999",
            "sudo -u '#999' -g '#101' pgpoke",
        );
        for (engine, next) in [
            (Engine::Docker, "docker exec -u 999:101 CONTAINER pgpoke"),
            (
                Engine::Kubernetes,
                "setpriv --reuid=999 --regid=101 --clear-groups pgpoke",
            ),
        ] {
            let p = Permission {
                engines: (Some(engine), None),
                ..p.clone()
            };
            check(&p, Rule::User, "effective group is 101", next);
        }
        check(
            &other("saved user", 0),
            Rule::User,
            "but its saved user is 0 and ours is 999",
            "sudo -u postgres pgpoke",
        );
    }

    /// In the order in which they are of interest.
    #[test]
    fn what_differs() {
        let us = procfs::process::Process::myself().and_then(|p| p.status());
        let us = us.unwrap();
        assert_eq!(Difference::between(&us, &us), None);
        let mut them = us.clone();
        them.sgid = us.fgid + 1;
        let found = Difference::between(&us, &them).unwrap();
        assert!(found.is_of_group(), "{found:?}");
        assert_eq!(
            (found.what, found.theirs, found.ours),
            ("saved group", us.fgid + 1, us.fgid)
        );
        them.euid = us.fuid + 1;
        let found = Difference::between(&us, &them).unwrap();
        assert_eq!(found.what, "effective user");
        assert!(!found.is_of_group());
    }

    #[test]
    fn user_namespaces() {
        // unshare -r: all capabilities, and none of them counts.
        let p = Permission {
            has_capability: true,
            in_user_namespace: true,
            same_user_namespace: Some(false),
            ..root()
        };
        check(
            &p,
            Rule::UserNamespace,
            "another user namespace",
            "sudo pgpoke",
        );
        // From the machine's own namespace it counts in all others.
        let p = Permission {
            has_capability: true,
            same_user_namespace: Some(false),
            labels: Some(("docker-default (enforce)".into(), None)),
            ..root()
        };
        assert_eq!(p.rule(), Rule::SecurityModule);
    }

    #[test]
    fn the_process_itself() {
        let p = Permission {
            may_look: false,
            dumpable: Some(false),
            ..same()
        };
        check(&p, Rule::NotDumpable, "not dumpable", "as root");
        let p = Permission {
            may_look: false,
            has_more_capabilities: Some(true),
            ..same()
        };
        check(&p, Rule::Capabilities, "capabilities", "as root");
        let p = Permission {
            tracer: Some((77, Some("gdb".into()))),
            ..same()
        };
        check(&p, Rule::Tracer, "by process 77 (gdb)", "-p 77");
        // Without any right, that is not what matters.
        let p = Permission {
            tracer: Some((77, None)),
            ..base()
        };
        assert_eq!(p.rule(), Rule::User);
        let p = Permission {
            hidden_tracer: true,
            ..same()
        };
        check(
            &p,
            Rule::Tracer,
            "outside of this PID namespace",
            "on the host",
        );
    }

    #[test]
    fn yama() {
        for (scope, next) in [(1, "ptrace_scope=0"), (2, "sudo pgpoke")] {
            let p = Permission {
                yama: Some(scope),
                ..same()
            };
            check(&p, Rule::Yama, &format!("ptrace_scope is {scope}"), next);
            // Another user is denied for that, whatever Yama says.
            let p = Permission {
                yama: Some(scope),
                ..base()
            };
            assert_eq!(p.rule(), Rule::User);
            assert!(p.to_string().ends_with(&format!("ptrace_scope: {scope})")));
        }
        let p = Permission {
            yama: Some(3),
            has_capability: true,
            may_look: true,
            ..root()
        };
        check(&p, Rule::Yama, "until the next boot", "no command helps");
        let p = Permission {
            yama: Some(0),
            ..same()
        };
        assert_eq!(p.rule(), Rule::Unknown);
    }

    #[test]
    fn filters_and_modules() {
        let p = Permission {
            call_denied: true,
            ..same()
        };
        check(
            &p,
            Rule::Seccomp,
            "seccomp filter",
            "outside of what set the filter",
        );
        let p = Permission {
            call_denied: true,
            engines: (Some(Engine::Docker), None),
            ..same()
        };
        check(&p, Rule::Seccomp, "seccomp filter", "seccomp=unconfined");
        let p = Permission {
            call_denied: true,
            gvisor: true,
            ..same()
        };
        check(&p, Rule::Gvisor, "gVisor", "cannot work here");
        let p = Permission {
            deny_ptrace: true,
            ..same()
        };
        check(&p, Rule::SecurityModule, "deny_ptrace", "setsebool");
        let p = Permission {
            labels: Some(("docker-default (enforce)".into(), Some("unconfined".into()))),
            ..same()
        };
        check(&p, Rule::SecurityModule, "docker-default", "apparmor");
        let p = same();
        check(&p, Rule::Unknown, "no rule that we know of", "as root");
    }
}
